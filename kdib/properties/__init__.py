"""The registry of properties: one file each, by task; the report shows a new one without being touched."""

from kdib.config import known
from kdib.properties import accuracy, calibration, corruptions, fidelity, perplexity, translation
from kdib.properties.base import Property

BY_TASK: dict[str, dict[str, Property]] = {
    "agreement": {
        "accuracy": accuracy.PROPERTY,
        "calibration": calibration.PROPERTY,
        "fidelity": fidelity.PROPERTY,
        "perplexity": perplexity.PROPERTY,
    },
    "images": {
        "accuracy": accuracy.IMAGES,
        "calibration": calibration.PROPERTY,
        "corruptions": corruptions.PROPERTY,
        "fidelity": fidelity.PROPERTY,
        "translation": translation.PROPERTY,
        "translation_fidelity": translation.FIDELITY,
    },
}


def of_task(task_name: str) -> dict[str, Property]:
    """The properties by name that the solutions of a task (config.task.name) can be looked at with.

    Raises:
      ValueError: for a task without any, listing those that have some.
    """
    known("config.task.name", task_name, BY_TASK)
    return BY_TASK[task_name]
