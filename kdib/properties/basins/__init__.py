"""Whether networks of one architecture lie in one basin of the loss: what is measured between them."""

from kdib.properties.basins.interpolation import barrier, interpolation_path
from kdib.properties.basins.plane import plane_losses, plane_through
from kdib.properties.basins.property import PROPERTY

__all__ = ["PROPERTY", "barrier", "interpolation_path", "plane_losses", "plane_through"]
