"""Tools to decide whether networks of one architecture lie in one basin of the loss.

`repair` is a module; its functions `moments` and `repair` correct an interpolated MLP.
"""

from kdib.properties.basins import repair
from kdib.properties.basins.activations import activation_matching, unit_activations
from kdib.properties.basins.interpolation import barrier, interpolation_path
from kdib.properties.basins.matching import weight_matching
from kdib.properties.basins.permutations import apply, spec_of
from kdib.properties.basins.plane import plane_losses, plane_through
from kdib.properties.basins.property import PROPERTY

__all__ = [
    "PROPERTY",
    "activation_matching",
    "apply",
    "barrier",
    "interpolation_path",
    "plane_losses",
    "plane_through",
    "repair",
    "spec_of",
    "unit_activations",
    "weight_matching",
]
