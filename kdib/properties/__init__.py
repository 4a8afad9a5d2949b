"""The registry of properties: one file each; the report shows a new one without being touched."""

from kdib.properties import accuracy, calibration, fidelity, perplexity
from kdib.properties.base import Property

PROPERTIES: dict[str, Property] = {
    "accuracy": accuracy.PROPERTY,
    "calibration": calibration.PROPERTY,
    "fidelity": fidelity.PROPERTY,
    "perplexity": perplexity.PROPERTY,
}
