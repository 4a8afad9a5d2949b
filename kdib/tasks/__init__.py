"""What is learned: the data of a task, encoded for the models, with the groups that its test items fall into."""

from collections.abc import Callable, Mapping
from typing import Any

from kdib.fields import from_mapping, known
from kdib.tasks.agreement import task as agreement
from kdib.tasks.base import Task
from kdib.tasks.images import task as images

TASKS: dict[str, Any] = {"agreement": agreement, "images": images}


def settings(config: Mapping[str, Any]) -> Any:
    """`{"name": task, "source": where its data come from, **the source's fields}` -> checked settings.

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
    """The task of a configuration."""
    return TASKS[config["name"]].build(settings(config))


def augmentation(task: str, config: Mapping[str, Any]) -> Callable[..., Any] | None:
    """`{"name": one of the task's augmentations, **its knobs}` -> fn(key, batch) -> batch; None without a name.

    Equal arguments give the same object, so that jit recognises it.

    Raises:
      ValueError: for an unknown augmentation or knob, listing the known ones.
    """
    if config and "name" not in config:
        raise ValueError(f"config.fits: augment={dict(config)} lacks 'name'")
    return TASKS[task].augmentation(**config) if config else None
