"""The tasks: data encoded for the models, and the groups of the test examples."""

from collections.abc import Callable, Mapping
from typing import Any

from kdib.fields import from_mapping, known
from kdib.tasks.agreement import task as agreement
from kdib.tasks.base import Task
from kdib.tasks.images import task as images

TASKS: dict[str, Any] = {"agreement": agreement, "images": images}


def settings(config: Mapping[str, Any]) -> Any:
    """Check the config `{"name": task, "source": origin of its data, **fields of the source}` and return the settings.

    Raises:
      ValueError: for an unknown task, source or field, listing the known ones.
    """
    fields = dict(config)
    for field in ("name", "source"):
        if field not in fields:
            raise ValueError(f"config.task lacks {field!r}")
    name, source = fields.pop("name"), fields.pop("source")
    known("config.task.name", name, TASKS)
    known("config.task.source", source, TASKS[name].SOURCES)
    return from_mapping(TASKS[name].SOURCES[source], fields, "config.task")


def build(config: Mapping[str, Any]) -> Task:
    """Build the task of a config."""
    return TASKS[config["name"]].build(settings(config))


def augmentation(task: str, config: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The function (key, batch) -> batch of a config `{"name": augmentation, **its knobs}`; None for an empty config.

    Equal arguments return the same object, so that jit does not compile again.

    Raises:
      ValueError: for a missing name, or an unknown augmentation or knob, listing the known ones.
    """
    if config and "name" not in config:
        raise ValueError(f"{dict(config)} lacks 'name'")
    return TASKS[task].augmentation(**config) if config else None
