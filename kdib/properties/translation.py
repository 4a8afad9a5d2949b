"""What a network answers when the picture is moved: accuracy, consistency, equivariance, fidelity to the teacher.

Offsets are (dy, dx) in whole pixels, +dy down, zeros come in; `radius` is max(|dy|, |dx|), so that ring r > 0 is a
square of 8 r offsets. Measured on N_IMAGES images of the first test set. Metrics of "translation":

- "accuracy" of group "offset" at (("dx", dx), ("dy", dy)); of group "radius" at (("radius", r),): the mean over ring r.
- "consistency", the share of images whose answer is that to the picture in place, at (("radius", r),).
- "equivariance_error" at (("radius", r),): the mean over ring and images of |f(Tx) - f(x)|, divided by the mean over
  images of |f(x)|, with f the logits less their mean over classes. None if f is constant over classes everywhere.
- at coords () of group "radius": "area_under_curve", the mean over radii 0..RADIUS of the accuracy of each, and
  "mean_consistency" and "mean_equivariance_error", the means over radii 1..RADIUS.

Of "translation_fidelity", with `other` the teacher: "agreement" at (("radius", r),), the share of moved images to which
both give one answer, and "mean_agreement" at coords (), its mean over radii 1..RADIUS.
"""

import functools
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
BUDGET = 16 * 2**20  # bytes that the largest step of a chunk of offsets may read and write


def offset_grid(radius: int) -> np.ndarray:
    """All whole offsets (dy, dx) of a square [(2 radius + 1)^2, 2], by rows."""
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
    """A metric of the images at every offset, as one compiled program whose memory does not grow with the offsets.

    `chunk` offsets are evaluated at a time by vmap, and chunk after chunk by lax.map.

    Args:
      metric_fn: images [N, H, W, C] -> pytree of arrays [...]. Arrays it closes over become constants of the program;
        calls within your own jit take them as arguments. Pass the same function again to use what was compiled.
      images_NxHxWxC: [N, H, W, C] of any dtype; the metric sees the same.
      offsets_Ox2: [O, 2] whole (dy, dx), O > 0; +dy moves the picture down, +dx to the right.
      chunk: None takes as many as BUDGET holds of the largest step of metric_fn, at least 1: 1 for an MLP of
        width 2000 and 1,000 images. More of them cost memory.
      fill: what comes in where the picture left: "zero", or "circular", what went out on the other side.

    Returns:
      metric_fn's pytree with a leading axis: [O, ...].

    Raises:
      ValueError: for fractions among the offsets, a chunk below 1, another fill, or other shapes.
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


def fitting_chunk(metric_fn: Callable[[jax.Array], Any], images_NxHxWxC: jax.Array) -> int:
    """How many copies of metric_fn's largest step (what it reads and writes) fit into BUDGET; at least 1."""
    jaxpr = jax.make_jaxpr(metric_fn)(images_NxHxWxC)
    return max(1, BUDGET // max(_largest_step(jaxpr.jaxpr), images_NxHxWxC.nbytes))


class Shifted(NamedTuple):
    """Of O offsets and N images: the class answered [O, N] and |f(Tx) - f(x)| [O, N]; and |f(x)| [N]."""

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
    """The answers of a network to moved images, its devices dividing the images.

    Args:
      model: compiled once for all its variables.
      variables: of the network.
      batch: columns [N, ...], of which "image" [N, H, W, C] is moved.
      offsets_Ox2: [O, 2] whole (dy, dx).
      fill: as of `translation_grid`. A network with circular padding, a mean over all positions and no downsampling
        answers alike to every circular shift.

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
    """The rows of every (student, teacher) pair on the first test set; each network is asked once."""
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
    """The mean over the ring max(|dy|, |dx|) = r of each image, [R + 1, N] for r = 0..R; every ring has an offset."""
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
    """The name of the first test set, and N_IMAGES rows of its columns."""
    split, dataset = next(iter(evidence.sets.items()))
    if "image" not in dataset.inputs:
        raise TypeError(f"{split} holds no images to move; its columns are {sorted(dataset.inputs)}")
    return split, gather(dataset.inputs, evenly(dataset.size, N_IMAGES))


@functools.partial(jax.jit, static_argnames=("model", "mesh", "fill"))
def _shifted(variables: Variables, batch: Batch, offsets_Ox2: jax.Array, *, model: Model, mesh: Mesh, fill: Fill):
    def local(variables, batch, offsets):
        def centred(images):
            logits = predict(variables, {**batch, "image": images}, model=model).logits
            return logits - logits.mean(axis=-1, keepdims=True)

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
    # Whole chunks: a remainder would be compiled apart, and what is evaluated twice is cut off.
    offsets = offsets[jnp.arange(-(-n_offsets // chunk) * chunk) % n_offsets]

    def one(offset):
        if fill == "circular":
            return metric_fn(jnp.roll(images, offset, axis=(1, 2)))
        return metric_fn(shift(images, offset[0], offset[1]))

    if chunk == 1:  # an offset of one's own is a slice, under vmap a gather
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


def _largest_step(jaxpr: Any) -> int:
    """Bytes that the largest equation reads and writes, those of inner programs included."""
    largest = 0
    for equation in jaxpr.eqns:
        inner = [_largest_step(sub) for sub in _programs(equation.params)]
        avals = [v.aval for v in (*equation.invars, *equation.outvars) if hasattr(v.aval, "shape")]
        own = 0 if inner else sum(math.prod(a.shape) * a.dtype.itemsize for a in avals)
        largest = max(largest, own, *inner)
    return largest


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
_FIRST = f"{N_IMAGES} test images, evenly spaced (or all, if there are fewer)"
_XLABEL = "offset in pixels, max(|dy|, |dx|)"

PROPERTY = Property(
    name="translation",
    title="Translation",
    kind="scalar",
    # Invariance alone would be had by always giving one answer; accuracy under shifts asks for both.
    primary=Primary("area_under_curve", split="", group="radius"),
    higher_is_better=True,
    measure=measure,
    caption=f"Accuracy and shift consistency of {_FIRST}, moved by whole offsets of up to {RADIUS} pixels, zeros "
    "coming in. A radius r is the mean over all offsets with max(|dy|, |dx|) = r; the area under the curve is the mean "
    f"of the accuracies at radii 0 to {RADIUS}.",
    reference=_REFERENCE,
    curves=(
        Curve("accuracy", "radius", x="radius", xlabel=_XLABEL, ylabel="accuracy"),
        Curve("consistency", "radius", x="radius", xlabel=_XLABEL, ylabel="share of unchanged answers"),
    ),
    maps=(Map("accuracy", "offset", x="dx", y="dy", xlabel="dx in pixels, right", ylabel="dy in pixels, down"),),
    caveat="A large shift pushes a part of the picture out of the frame, so that what is lost there is not all "
    "sensitivity to place; and a network that is more accurate in place has a larger area without minding shifts less: "
    "read it beside the consistency.",
)

FIDELITY = Property(
    name="translation_fidelity",
    title="Fidelity to the teacher under translation",
    kind="relational",
    primary=Primary("mean_agreement", split="", group="radius"),
    higher_is_better=True,
    measure=measure_fidelity,
    caption=f"How often a student answers as its own teacher does, and as those of the other seeds do, to {_FIRST}, "
    f"moved by whole offsets; the mean is over radii 1 to {RADIUS}.",
    reference="Stanton, Izmailov, Kirichenko, Alemi, Wilson (NeurIPS 2021), section 3, on moved images",
    curves=(Curve("agreement", "radius", x="radius", xlabel=_XLABEL, ylabel="agreement"),),
    caveat="Networks that withstand shifts agree because both are right, and networks that do not may agree because "
    "both give one answer to most moved pictures: read own against sibling and against the floor.",
)
