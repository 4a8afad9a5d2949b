"""The registry of properties by task, with one file per property; the report shows new ones without changes."""

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
    """The properties, by name, that are available for a task (config.task.name).

    Raises:
      ValueError: for a task without properties; the message lists the known tasks.
    """
    known("config.task.name", task_name, BY_TASK)
    return BY_TASK[task_name]
