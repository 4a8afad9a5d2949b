"""Cases of the benchmarks on images: networks and random 28 x 28 images, the same for kdib and torch."""

from typing import NamedTuple

import numpy as np
from cases import BATCH

from kdib.models import build

N, CLASSES, SHAPE = 40 * BATCH, 10, (28, 28, 1)


class Case(NamedTuple):
    """A preset, its downsampling ("" for an MLP), and where its targets come from: "" (labels), "live" or "stored"."""

    preset: str
    downsampling: str = ""
    teacher: str = ""


CASES = {
    "mlp_1": Case("mlp_1"),
    "mlp_1, stored answers": Case("mlp_1", teacher="stored"),
    "mlp_1, live cnn_1 teacher": Case("mlp_1", teacher="live"),
    "cnn_1, pool": Case("cnn_1", "pool"),
    "cnn_1, stride": Case("cnn_1", "stride"),
    "cnn_small, stride": Case("cnn_small", "stride"),
    "mlp_small": Case("mlp_small"),
}


def pictures() -> dict[str, np.ndarray]:
    """Draw random images and labels."""
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (N, *SHAPE), np.uint8), rng.integers(0, CLASSES, N).astype(np.int32)
    return {"image": image, "label": label, "id": np.arange(N, dtype=np.int32)}


def network(case: Case):
    """Build kdib's network."""
    return build(case.preset, num_classes=CLASSES, image_shape=SHAPE, **({"downsampling": case.downsampling or None}))
