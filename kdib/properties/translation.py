"""Behaviour on shifted images: accuracy, consistency, equivariance and fidelity to the teacher.

Offsets are (dy, dx) in whole pixels, +dy is down, and vacated pixels are 0. `radius` is max(|dy|, |dx|), so ring r > 0
is a square of 8 r offsets. Everything is measured on N_IMAGES images of the first test set. Metrics of "translation":

- "accuracy" of group "offset" at (("dx", dx), ("dy", dy)); of group "radius" at (("radius", r),): the mean over ring r.
- "consistency" at (("radius", r),): the share of images with the same prediction as without a shift.
- "equivariance_error" at (("radius", r),): the mean over ring and images of |f(Tx) - f(x)|, divided by the mean over
  images of |f(x)|, where f is the logits minus their mean over classes. None if f is 0 for every image.
- at coords () of group "radius": "area_under_curve", the mean accuracy over radii 0..RADIUS, and "mean_consistency" and
  "mean_equivariance_error", the means over radii 1..RADIUS.

Metrics of "translation_fidelity", with the teacher as `other`: "agreement" at (("radius", r),), the share of shifted
images for which both networks predict the same class, and "mean_agreement" at coords (), its mean over radii 1..RADIUS.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec

from kdib.models.base import Batch, Model, Variables
from kdib.properties.base import Curve, Evidence, Map, Primary, Property, evenly, mean_and_se
from kdib.records import Row, Subject
from kdib.step import predict
from kdib.tasks.base import gather
from kdib.tasks.images.transforms import shift

RADIUS = 5
Fill = Literal["zero", "circular"]
N_IMAGES = 500
BUDGET = 16 * 2**20  # bytes that the largest step of a chunk of offsets, or of a piece of images, reads and writes


def offset_grid(radius: int) -> np.ndarray:
    """All whole offsets (dy, dx) with |dy|, |dx| <= radius, [(2 radius + 1)^2, 2], row by row."""
    steps = np.arange(-radius, radius + 1, dtype=np.int32)
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)


def translation_grid(
    metric_fn: Callable[[jax.Array], Any],
    images_NxHxWxC: jax.Array,
    offsets_Ox2: Any,
    *,
    chunk: int | None = None,
    fill: Fill = "zero",
) -> Any:
    """A metric of the images at every offset, in one compiled program whose memory does not grow with the offsets.

    The program applies vmap within a chunk of offsets and lax.map over chunks.

    Args:
      metric_fn: images [N, H, W, C] -> pytree of arrays [...]. Arrays it closes over become constants of the program;
        a call within your own jit takes them as arguments. Pass the same function object again to reuse the program.
      images_NxHxWxC: [N, H, W, C] of any dtype, which the metric sees unchanged.
      offsets_Ox2: [O, 2] whole (dy, dx), O > 0; +dy moves the image down, +dx to the right.
      chunk: the number of offsets evaluated at a time; a larger chunk needs more memory. None takes as many as fit into
        BUDGET, judged by the largest step of metric_fn, and at least 1 (1 for an MLP of width 2000 and 1,000 images).
      fill: "zero" for vacated pixels, or "circular" for pixels that reenter on the opposite side.

    Returns:
      metric_fn's pytree with a leading axis: [O, ...].

    Raises:
      ValueError: for fractional offsets, a chunk below 1, an unknown fill, or other shapes.
    """
    if fill not in get_args(Fill):
        raise ValueError(f"unknown fill {fill!r}; known: {', '.join(get_args(Fill))}")
    images, offsets = jnp.asarray(images_NxHxWxC), _whole(offsets_Ox2)
    if images.ndim != 4 or offsets.ndim != 2 or offsets.shape[1] != 2 or not len(offsets):
        raise ValueError(f"expected images [N, H, W, C] and offsets [O, 2], got {images.shape} and {offsets.shape}")
    chunk = fitting_chunk(metric_fn, images) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"expected chunk >= 1, got {chunk}")
    return _grid(metric_fn, images, offsets, min(chunk, len(offsets)), fill)


def in_pieces(metric_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """metric_fn evaluated on some images at a time, so that the arrays of its largest step fit into BUDGET.

    For metrics with one value per image, not for means over images: metric_fn maps a pytree of arrays [N, ...], such as
    images or a batch, to one of arrays [N, ...]. Weights do not count, because they do not shrink with the images.
    """

    def whole(examples: Any) -> Any:
        n = len(jax.tree.leaves(examples)[0])
        some = (examples, jax.tree.map(lambda x: x[:1], examples))
        all_bytes, one_bytes = (_bytes_by_step(jax.make_jaxpr(metric_fn)(x).jaxpr) for x in some)
        # A network that computes otherwise on one image has other steps, and this is a rougher estimate.
        pieces = min(n, -(-max(a - b for a, b in zip(all_bytes, one_bytes, strict=False)) // BUDGET))
        if pieces < 2:
            return metric_fn(examples)
        # Pieces of equal length; what the last one lacks is filled up with the first examples and cut off.
        index_PxM = (jnp.arange(-(-n // pieces) * pieces) % n).reshape(pieces, -1)
        values = jax.lax.map(metric_fn, jax.tree.map(lambda x: x[index_PxM], examples))
        return jax.tree.map(lambda parts: parts.reshape(-1, *parts.shape[2:])[:n], values)

    return whole


def fitting_chunk(metric_fn: Callable[[jax.Array], Any], images_NxHxWxC: jax.Array) -> int:
    """How many times the bytes that metric_fn's largest step reads and writes fit into BUDGET; at least 1."""
    jaxpr = jax.make_jaxpr(metric_fn)(images_NxHxWxC)
    return max(1, BUDGET // max(*_bytes_by_step(jaxpr.jaxpr), images_NxHxWxC.nbytes))


class Shifted(NamedTuple):
    """For O offsets and N images: the predicted classes [O, N], |f(Tx) - f(x)| [O, N], and |f(x)| [N]."""

    choice_OxN: np.ndarray
    change_OxN: np.ndarray
    norm_N: np.ndarray


def shifted(
    model: Model,
    variables: Variables,
    batch: Mapping[str, np.ndarray],
    offsets_Ox2: np.ndarray,
    *,
    fill: Fill = "zero",
) -> Shifted:
    """The predictions of a network on shifted images; the images are divided among the devices.

    Args:
      model: compiled once for all its variables.
      variables: of the network.
      batch: columns [N, ...]; "image" [N, H, W, C] is shifted.
      offsets_Ox2: [O, 2] whole (dy, dx).
      fill: as in `translation_grid`. A network with circular padding, a mean over all positions and no downsampling has
        the same outputs for every circular shift.

    Raises:
      FloatingPointError: if a logit is not finite.
    """
    devices = jax.local_devices()[: math.gcd(len(batch["image"]), jax.local_device_count())]
    mesh = Mesh(np.array(devices), ("runs",))
    answers = Shifted(*jax.device_get(_shifted(variables, dict(batch), offsets_Ox2, model=model, mesh=mesh, fill=fill)))
    if not (np.isfinite(answers.change_OxN).all() and np.isfinite(answers.norm_N).all()):
        raise FloatingPointError("logits of moved images are not finite")
    return answers


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every subject on the first test set."""
    split, batch = _images(evidence)
    for subject in subjects:
        answers = shifted(*evidence.network(subject), batch, offset_grid(RADIUS))
        yield from _subject_rows(subject.id, split, answers, np.asarray(batch["label"]))


def measure_fidelity(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every (student, teacher) pair on the first test set; each network is evaluated once."""
    del subjects
    split, batch = _images(evidence)
    networks = {subject.id: subject for pair in evidence.pairs for subject in pair}
    choices = {
        name: shifted(*evidence.network(subject), batch, offset_grid(RADIUS)).choice_OxN
        for name, subject in networks.items()
    }
    for student, teacher in evidence.pairs:
        same_RxN = by_radius(choices[student.id] == choices[teacher.id], offset_grid(RADIUS))

        def row(metric, coords, values_N, student=student, teacher=teacher):
            value, se = mean_and_se(values_N)
            key = (student.id, teacher.id, "translation_fidelity", metric, split, "radius", coords)
            return Row(*key, value, len(values_N), se)

        yield from (row("agreement", (("radius", r),), values_N) for r, values_N in enumerate(same_RxN))
        yield row("mean_agreement", (), same_RxN[1:].mean(axis=0))


def by_radius(values_OxN: np.ndarray, offsets_Ox2: np.ndarray) -> np.ndarray:
    """Each image's mean over ring r = max(|dy|, |dx|), [R + 1, N] for r = 0..R; every ring must have an offset."""
    radius_O = np.abs(offsets_Ox2).max(axis=1)
    return np.stack([values_OxN[radius_O == r].mean(axis=0) for r in range(radius_O.max() + 1)])


def _subject_rows(subject: str, split: str, answers: Shifted, labels_N: np.ndarray) -> Iterator[Row]:
    offsets_Ox2 = offset_grid(RADIUS)
    correct_OxN = answers.choice_OxN == labels_N
    in_place_N = answers.choice_OxN[np.abs(offsets_Ox2).max(axis=1).argmin()]
    norm = answers.norm_N.mean(dtype=np.float64)

    def row(metric, group, coords, values_N):
        value, se = (None, None) if values_N is None else mean_and_se(values_N)
        return Row(subject, None, "translation", metric, split, group, coords, value, len(labels_N), se)

    for (dy, dx), correct_N in zip(offsets_Ox2.tolist(), correct_OxN, strict=True):
        yield row("accuracy", "offset", (("dx", dx), ("dy", dy)), correct_N)
    correct_RxN, same_RxN, change_RxN = (
        by_radius(values, offsets_Ox2) for values in (correct_OxN, answers.choice_OxN == in_place_N, answers.change_OxN)
    )
    error_RxN = change_RxN / norm if norm > 0 else None
    rings = {"accuracy": correct_RxN, "consistency": same_RxN, "equivariance_error": error_RxN}
    for metric, values_RxN in rings.items():
        for r in range(RADIUS + 1):
            yield row(metric, "radius", (("radius", r),), None if values_RxN is None else values_RxN[r])
    yield row("area_under_curve", "radius", (), correct_RxN.mean(axis=0))
    yield row("mean_consistency", "radius", (), same_RxN[1:].mean(axis=0))
    yield row("mean_equivariance_error", "radius", (), None if error_RxN is None else error_RxN[1:].mean(axis=0))


def _images(evidence: Evidence) -> tuple[str, dict[str, np.ndarray]]:
    """The name of the first test set, and N_IMAGES of its rows."""
    split, dataset = next(iter(evidence.sets.items()))
    if "image" not in dataset.inputs:
        raise TypeError(f"{split} holds no images to move; its columns are {sorted(dataset.inputs)}")
    return split, gather(dataset.inputs, evenly(dataset.size, N_IMAGES))


@functools.partial(jax.jit, static_argnames=("model", "mesh", "fill"))
def _shifted(variables: Variables, batch: Batch, offsets_Ox2: jax.Array, *, model: Model, mesh: Mesh, fill: Fill):
    def local(variables, batch, offsets):
        logits = in_pieces(lambda piece: predict(variables, piece, model=model).logits)

        def centred(images):
            logits_NxK = logits({**batch, "image": images})
            return logits_NxK - logits_NxK.mean(axis=-1, keepdims=True)

        def against_still(images):
            moved_NxK = centred(images)
            return moved_NxK.argmax(axis=-1), jnp.linalg.norm(moved_NxK - still_NxK, axis=-1)

        still_NxK = centred(batch["image"])
        return *translation_grid(against_still, batch["image"], offsets, fill=fill), jnp.linalg.norm(still_NxK, axis=-1)

    specs = PartitionSpec(), PartitionSpec("runs"), PartitionSpec()
    out_specs = PartitionSpec(None, "runs"), PartitionSpec(None, "runs"), PartitionSpec("runs")
    ask = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
    return ask(variables, batch, offsets_Ox2)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _grid(metric_fn, images: jax.Array, offsets: jax.Array, chunk: int, fill: Fill):
    n_offsets = len(offsets)
    # Fill up to whole chunks, since a remainder would need a program of its own; the repeated values are cut off.
    offsets = offsets[jnp.arange(-(-n_offsets // chunk) * chunk) % n_offsets]

    def one(offset):
        if fill == "circular":
            return metric_fn(jnp.roll(images, offset, axis=(1, 2)))
        return metric_fn(shift(images, offset[0], offset[1]))

    if chunk == 1:  # a single offset is a slice; under vmap it would become a gather
        return jax.lax.map(one, offsets)
    values = jax.lax.map(jax.vmap(one), offsets.reshape(-1, chunk, 2))
    return jax.tree.map(lambda parts: parts.reshape(-1, *parts.shape[2:])[:n_offsets], values)


def _whole(offsets_Ox2: Any) -> jax.Array:
    if isinstance(offsets_Ox2, Tracer):
        if not jnp.issubdtype(offsets_Ox2.dtype, jnp.integer):
            raise ValueError(f"expected offsets of an integer type, got {offsets_Ox2.dtype}")
        return offsets_Ox2
    values = np.asarray(offsets_Ox2)
    if not np.array_equal(values, np.round(values)):
        raise ValueError(f"expected whole offsets (dy, dx), got {values[(values != np.round(values))][0]} among them")
    return jnp.asarray(values.astype(np.int32))


def _bytes_by_step(jaxpr: Any) -> list[int]:
    """The bytes that each equation reads and writes; in place of one with inner programs, those of their equations."""
    found = [0]
    for equation in jaxpr.eqns:
        inner = [_bytes_by_step(sub) for sub in _programs(equation.params)]
        avals = [v.aval for v in (*equation.invars, *equation.outvars) if hasattr(v.aval, "shape")]
        own = sum(math.prod(a.shape) * a.dtype.itemsize for a in avals)
        found += itertools.chain.from_iterable(inner) if inner else [own]
    return found


def _programs(params: Mapping[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation, such as the body of a loop."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)  # of a closed one  # noqa: PLW2901
            if hasattr(part, "eqns"):
                yield part


_REFERENCE = (
    "Kauderer-Abrams, Quantifying translation-invariance in convolutional neural networks (arXiv 1801.01450); "
    "Azulay, Weiss (JMLR 2019); Zhang, Making Convolutional Networks Shift-Invariant Again (ICML 2019)"
)
_FIRST = f"{N_IMAGES} evenly spaced test images (or all, if there are fewer)"
_XLABEL = "offset in pixels, max(|dy|, |dx|)"

PROPERTY = Property(
    name="translation",
    title="Translation",
    kind="scalar",
    # A constant prediction is invariant, too; accuracy under shifts needs both invariance and competence.
    primary=Primary("area_under_curve", split="", group="radius"),
    higher_is_better=True,
    measure=measure,
    caption=f"Accuracy and consistency on {_FIRST}, shifted by whole offsets of up to {RADIUS} pixels; vacated pixels "
    "are 0. Consistency is the share of images with the same prediction as without a shift. The value at radius r is "
    "the mean over all offsets with max(|dy|, |dx|) = r. The area under the curve is the mean accuracy over radii "
    f"0 to {RADIUS}.",
    reference=_REFERENCE,
    curves=(
        Curve("accuracy", "radius", x="radius", xlabel=_XLABEL, ylabel="accuracy"),
        Curve("consistency", "radius", x="radius", xlabel=_XLABEL, ylabel="share of unchanged predictions"),
    ),
    maps=(Map("accuracy", "offset", x="dx", y="dy", xlabel="dx in pixels (right)", ylabel="dy in pixels (down)"),),
    caveat="A large shift moves a part of the image out of the frame, so a loss of accuracy there is not only "
    "sensitivity to position. A network that is more accurate on unshifted images also has a larger area, even if it "
    "is not more robust to shifts: compare with the consistency.",
)

FIDELITY = Property(
    name="translation_fidelity",
    title="Fidelity to the teacher under translation",
    kind="relational",
    primary=Primary("mean_agreement", split="", group="radius"),
    higher_is_better=True,
    measure=measure_fidelity,
    caption="How often a student predicts the same class as its own teacher (“own”) or as the teachers of other seeds "
    f"(“sibling”) on {_FIRST}, shifted by whole offsets. The mean is over radii 1 to {RADIUS}.",
    reference="Stanton, Izmailov, Kirichenko, Alemi, Wilson (NeurIPS 2021), section 3, on shifted images",
    curves=(Curve("agreement", "radius", x="radius", xlabel=_XLABEL, ylabel="agreement"),),
    caveat="Networks that are robust to shifts agree because both are right. Networks that are not may agree because "
    "both predict the same class for most shifted images. Compare own with sibling and with the floor.",
)
