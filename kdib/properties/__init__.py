"""The registry of properties: one file each, by task; the report shows a new one without being touched."""

from kdib.fields import known
from kdib.properties import (
    accuracy,
    basins,
    calibration,
    corruptions,
    fidelity,
    perplexity,
    sharpness,
    similarity,
    training_paths,
    translation,
)
from kdib.properties.base import Property

EVERYWHERE: dict[str, Property] = {
    "calibration": calibration.PROPERTY,
    "fidelity": fidelity.PROPERTY,
    "similarity": similarity.PROPERTY,
    "training_paths": training_paths.PROPERTY,
    "basins": basins.PROPERTY,
    "sharpness": sharpness.PROPERTY,
}
BY_TASK: dict[str, dict[str, Property]] = {
    "agreement": {
        "accuracy": accuracy.PROPERTY,
        "perplexity": perplexity.PROPERTY,
        **EVERYWHERE,
    },
    "images": {
        "accuracy": accuracy.IMAGES,
        "corruptions": corruptions.PROPERTY,
        "translation": translation.PROPERTY,
        "translation_fidelity": translation.FIDELITY,
        **EVERYWHERE,
    },
}


def of_task(task_name: str) -> dict[str, Property]:
    """The properties by name that the solutions of a task (config.task.name) can be looked at with.

    Raises:
      ValueError: for a task without any, listing those that have some.
    """
    known("config.task.name", task_name, BY_TASK)
    return BY_TASK[task_name]
