"""Image classification with ten classes: generated digits, or MNIST, Fashion-MNIST, CIFAR-10 and SVHN from files.

The in-distribution test set is accompanied by translated and scaled versions, as in Abnar, Dehghani & Zuidema 2020.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import numpy as np

from kdib.fields import known
from kdib.ranges import SEED, Range, check
from kdib.tasks.base import Dataset, Task
from kdib.tasks.images import digits, files, moved
from kdib.tasks.images.corruptions import CORRUPTIONS, STYLE, corrupt
from kdib.tasks.images.sets import NAMES, NUMERALS, Images
from kdib.tasks.images.views import AUGMENTATIONS, augmentation

__all__ = ["SOURCES", "augmentation", "build"]

MADE = {
    "validation": "carved from the training split",
    "translated": f"MNIST-C-style: test, moved by {moved.REACH} px on each axis, to a random side",
    "scaled": f"MNIST-C-style: test, at {moved.SCALE:.0%} of its size, bilinear",
    "shifted": f"validation, moved by up to {moved.REACH} px on each axis, whole offsets; watched, never trained on",
}


PROBE_SEED = 0  # fixed, so that every study sees the same corrupted and augmented images


@dataclass(frozen=True)
class DigitsSettings:
    """Generated digits. The sets of one `data_seed` share no image, and a larger set starts with a smaller one.

    `corruptions`, such as {"rotated_a_little": {"name": "rotate", "radians": 0.1}}, adds test sets: the test images
    under an MNIST-C-style corruption at a strength of your choice (`kdib.tasks.images.corruptions`). `views`, such as
    {"jittered": {"name": "colour_jitter", "brightness": 0.4}}, adds test sets of randomly augmented test images
    (`kdib.tasks.images.views`).
    """

    source: ClassVar[str] = "digits"
    setup: ClassVar[str] = "classification"
    data_seed: int = 0
    n_train: int = 10_000
    n_validation: int = 2_000
    n_test: int = 2_000
    corruptions: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for size in ("n_train", "n_validation", "n_test"):
            check(f"config.task.{size}", getattr(self, size), Range(1, 10_000_000, whole=True))
        check("config.task.data_seed", self.data_seed, SEED)


@dataclass(frozen=True)
class FileSettings:
    """Images from files; `data_dir` is described in `files.read`.

    `seed` shuffles the training split. The first `n_validation` images become the validation set and the next `n_train`
    the training set. `seed` also selects `n_test` images of the test split. 0 for `n_train` or `n_test`
    means all images. `corruptions` (for images of 28 x 28 x 1) and `views` are described in DigitsSettings.
    """

    source: ClassVar[str]
    setup: ClassVar[str] = "classification"
    data_dir: str = ""
    n_train: int = 0
    n_validation: int = 5_000
    n_test: int = 0
    seed: int = 0
    corruptions: Mapping[str, Any] = field(default_factory=dict)
    views: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check("config.task.seed", self.seed, SEED)


@dataclass(frozen=True)
class MnistSettings(FileSettings):
    """The digits of LeCun, Cortes & Burges.

    `corrupted`, such as ("translate", "scale"), adds test sets "mnist_c_translate", ... of the published MNIST-C (Mu &
    Gilmer 2019). TFDS must have prepared them as mnist_corrupted.
    """

    source = "mnist"
    corrupted: tuple[str, ...] = ()


class FashionMnistSettings(FileSettings):
    """Xiao, Rasul & Vollgraf 2017: clothes in the format of MNIST."""

    source = "fashion_mnist"


class Cifar10Settings(FileSettings):
    """Krizhevsky 2009: colour images of ten classes."""

    source = "cifar10"


class SvhnSettings(FileSettings):
    """Netzer et al. 2011: house numbers, cropped to single digits."""

    source = "svhn_cropped"


class Cifar10JpegSettings(FileSettings):
    """A lossy subset of CIFAR-10 for tests; accuracies on it are not accuracies on CIFAR-10."""

    source = "cifar10_jpeg"


Settings = DigitsSettings | FileSettings
FROM_FILES = (MnistSettings, FashionMnistSettings, Cifar10Settings, SvhnSettings, Cifar10JpegSettings)
SOURCES: dict[str, type[Settings]] = {kind.source: kind for kind in (DigitsSettings, *FROM_FILES)}


def build(settings: Settings) -> Task:
    """Build the task of these settings; equal settings and files give equal tasks.

    Raises:
      FileNotFoundError: the files do not exist; the message names the remedies.
      ValueError: a file is damaged, or the settings ask for more images than exist.
    """
    if isinstance(settings, DigitsSettings):
        sizes = {"train": settings.n_train, "validation": settings.n_validation, "test": settings.n_test}
        sets = {name: Images(*digits.digits(settings.data_seed, n, name)) for name, n in sizes.items()}
        return _task(settings, sets, NUMERALS, seed=settings.data_seed, origin="generated by kdib.tasks.images.digits")
    source = files.read(settings.source, settings.data_dir)
    sets = _carved(source.train, settings) | {"test": _some(source.test, settings)}
    published = {
        f"mnist_c_{name}": _some(files.corrupted(name, settings.data_dir), settings)
        for name in getattr(settings, "corrupted", ())
    }
    return _task(settings, sets, NAMES[settings.source], seed=settings.seed, origin=source.origin, others=published)


# ---- the sets


def _carved(images: Images, settings: FileSettings) -> dict[str, Images]:
    """Disjoint training and validation sets from the training split."""
    n, n_validation = len(images.label), settings.n_validation
    check("config.task.n_validation", n_validation, Range(1, n - 1, whole=True))
    check("config.task.n_train", settings.n_train, Range(0, n - n_validation, whole=True))
    order_N = np.random.default_rng([settings.seed, 0]).permutation(n)
    end = n_validation + settings.n_train if settings.n_train else n
    return {"train": _take(images, order_N[n_validation:end]), "validation": _take(images, order_N[:n_validation])}


def _some(images: Images, settings: FileSettings) -> Images:
    n = len(images.label)
    check("config.task.n_test", settings.n_test, Range(0, n, whole=True))
    order_N = np.random.default_rng([settings.seed, 3]).permutation(n)
    return _take(images, np.sort(order_N[: settings.n_test])) if settings.n_test else images


def _take(images: Images, rows: np.ndarray) -> Images:
    return Images(images.image[rows], images.label[rows])


def _dataset(images: Images) -> Dataset:
    return Dataset({**images._asdict(), "id": np.arange(len(images.label), dtype=np.int32)}, groups={})


# ---- the task


def _task(
    settings: Settings,
    sets: dict[str, Images],
    names: tuple[str, ...],
    *,
    seed: int,
    origin: str,
    others: Mapping[str, Images] = MappingProxyType({}),
) -> Task:
    """The task of `sets` (train, validation, test) and the sets derived from them; `others` are further test sets."""
    others = {**others, **_probes(settings, sets["test"], {"translated", "scaled", "shifted", *sets, *others})}
    sets = sets | {
        "translated": Images(moved.translated(sets["test"].image, seed)[0], sets["test"].label),
        "scaled": Images(moved.scaled(sets["test"].image), sets["test"].label),
        "shifted": Images(moved.shifted(sets["validation"].image, seed)[0], sets["validation"].label),
        **others,
    }
    data, shape = {name: _dataset(images) for name, images in sets.items()}, sets["train"].image.shape[1:]
    meaning = {"task": "images", "source": settings.source, "shape": shape, "classes": names}
    return Task(
        f"images/{settings.source}",
        data["train"],
        data["validation"],
        {name: data[name] for name in ("test", "translated", "scaled", *others)},
        num_classes=len(names),
        input_digest=hashlib.sha256(json.dumps(meaning).encode()).hexdigest(),
        facts=_facts(settings, sets, names, origin),
        shapes={"image_shape": shape},
        watched={"shifted": data["shifted"]},
    )


def _probes(settings: Settings, images: Images, taken: set[str]) -> dict[str, Images]:
    """The test images as the settings' `corruptions` and `views` change them, by the name of the new test set."""
    made, kinds = {}, {"corruptions": (_corrupted, CORRUPTIONS), "views": (_viewed, AUGMENTATIONS)}
    for kind, (change, names) in kinds.items():
        for name, knobs in getattr(settings, kind).items():
            where = f"config.task.{kind}.{name}"
            if not isinstance(name, str) or not isinstance(knobs, Mapping):
                raise ValueError(f"{where}: expected a name and {{'name': ..., knobs}}, got {name!r}: {knobs!r}")
            if name in taken or name in made:
                raise ValueError(f"{where}: there is a set {name!r} already; choose another name")
            known(f"{where}.name", knobs.get("name", ""), names)
            try:
                made[name] = images._replace(image=change(images.image, **knobs))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
    return made


def _corrupted(image_NxHxWxC: np.ndarray, *, name: str, **knobs: Any) -> np.ndarray:
    return np.asarray(corrupt(name, jax.random.key(PROBE_SEED), image_NxHxWxC, **knobs))


def _viewed(image_NxHxWxC: np.ndarray, *, name: str, **knobs: Any) -> np.ndarray:
    """An augmented view of every image, drawn once."""
    batch = {"image": image_NxHxWxC, "id": np.arange(len(image_NxHxWxC), dtype=np.int32)}
    image = jax.jit(augmentation(name, **knobs))(jax.random.key(PROBE_SEED), batch)["image"]
    return np.asarray(np.rint(image * 255), np.uint8)


def _facts(settings: Settings, sets: dict[str, Images], names: tuple[str, ...], origin: str) -> dict[str, Any]:
    made = {name: text for name, text in MADE.items() if (name, settings.source) != ("validation", "digits")}
    made |= {name: f"{STYLE}: test, {_spelled(knobs)}" for name, knobs in settings.corruptions.items()}
    made |= {name: f"test, augmented: {_spelled(knobs)}" for name, knobs in settings.views.items()}
    return {
        "settings": asdict(settings),
        "source": settings.source,
        "origin": origin,
        "image_shape": list(sets["train"].image.shape[1:]),
        "classes": list(names),
        "made": made,
        "training_images_sha256": hashlib.sha256(np.ascontiguousarray(sets["train"].image).data).hexdigest(),
        "sets": {name: _set_facts(images, names) for name, images in sets.items()},
    }


def _spelled(knobs: Mapping[str, Any]) -> str:
    """For example "rotate (radians=0.1)"."""
    rest = ", ".join(f"{knob}={value}" for knob, value in knobs.items() if knob != "name")
    return f"{knobs['name']} ({rest})" if rest else knobs["name"]


def _set_facts(images: Images, names: tuple[str, ...]) -> dict[str, Any]:
    counts = np.bincount(images.label, minlength=len(names))
    return {"size": len(images.label), "labels": dict(zip(names, counts.tolist(), strict=True))}
