"""A loss as data: named terms with traced weights, evaluated to mergeable means and combined last.

>>> import jax.numpy as jnp
>>> spec = from_config({
...     "kl": {"fn": "softened_kl", "weight": 0.9, "temperature": 2.0},
...     "ce": {"fn": "cross_entropy", "weight": 0.1},
... })
>>> context = {
...     "student": {"logits": jnp.array([[2.0, 0.0], [0.0, 1.0]])},
...     "teacher": {"logits": jnp.array([[3.0, 0.0], [0.0, 0.0]])},
...     "batch": {"label": jnp.array([0, 1])},
... }
>>> means = terms(spec, context, step=0)
>>> {name: round(float(mean.value), 4) for name, mean in means.items()}
{'kl': 0.1031, 'ce': 0.2201}
>>> round(float(combine(means, spec, step=0)), 4)
0.1148

Weights, temperatures and the arguments of schedules are leaves of the spec. Pass the spec to a jitted function as an
argument: new values do not trace again, and stacked specs can be vmapped into a sweep. Everything that changes the
program is static.
"""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kdib.losses import divergences, features, relations, schedules
from kdib.losses.knobs import bind, check_member, knobs_of, lookup, required, scalar
from kdib.losses.paths import resolve
from kdib.ranges import Range, check

PROJECTORS = ("linear", "conv")  # heads that map a student's layer to the shape of its teacher's
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean as a sum and a count, so that micro-batches, hosts and runs merge by `+` into the mean over all of them.

    >>> import jax.numpy as jnp
    >>> first = Mean.of(jnp.array([1.0, 2.0]))
    >>> second = Mean.of(jnp.array([6.0, jnp.nan]), where=jnp.array([True, False]))
    >>> print((first + second).value, (first + second).count)
    3.0 3.0
    """

    sum: jax.Array
    count: jax.Array

    @classmethod
    def of(cls, values: ArrayLike, where: ArrayLike | None = None) -> "Mean":
        """The mean over all of `values` [...] or, with a boolean `where` [...], over those where it is true."""
        values = jnp.asarray(values).astype(jnp.float32)
        if where is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, jnp.float32))
        if jnp.shape(where) != values.shape:
            raise ValueError(f"where must have the shape of the values, {values.shape}, got {jnp.shape(where)}")
        kept = jnp.asarray(where, bool)
        return cls(jnp.sum(jnp.where(kept, values, 0.0)), jnp.sum(kept, dtype=jnp.float32))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.sum + other.sum, self.count + other.count)

    @property
    def value(self) -> jax.Array:
        """Sum / count; nan if the count is 0."""
        return self.sum / self.count


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weight", "hparams", "schedule_hparams"],
    meta_fields=["fn", "inputs", "where", "options", "schedule"],
)
@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of a loss: a pytree whose leaves may be swept and whose static fields shape the program.

    `Term.of` builds one from plain numbers, for any function of arrays that returns one value per example:

    >>> term = Term.of(divergences.softened_kl, ("student.logits", "teacher.logits"), weight=0.5)
    >>> term.hparams, term.options
    ({'temperature': Array(1., dtype=float32)}, (('axis', -1), ('direction', 'forward')))
    """

    weight: jax.Array
    hparams: dict[str, jax.Array]  # keyword arguments of fn
    schedule_hparams: dict[str, jax.Array]  # keyword arguments of schedule
    fn: Callable[..., jax.Array]
    inputs: tuple[str, ...]  # paths in the context, e.g. "student.logits", "teacher.hidden.block2"
    where: str | None  # path of a mask of examples, e.g. "batch.mask"
    options: tuple[tuple[str, Any], ...]  # keyword arguments of fn that shape the program, sorted
    schedule: Callable[..., jax.Array]  # step -> factor of the weight; module-level, never a closure

    @classmethod
    def of(
        cls,
        fn: Callable[..., jax.Array],
        inputs: Iterable[str],
        *,
        weight: ArrayLike,
        hparams: Mapping[str, Any] = _NOTHING,
        where: str | None = None,
        schedule: Callable[..., jax.Array] = schedules.constant,
        schedule_hparams: Mapping[str, Any] = _NOTHING,
    ) -> "Term":
        """Build a term with float32 leaves; arguments that `hparams` omits take the defaults of fn's signature.

        Keyword-only arguments of fn annotated as int, str, bool or Literal are static, all others are traced. `where`
        is reserved for the mask of examples, which is passed to fn if fn annotates it as `ExampleMask`.

        Raises:
          ValueError: for an unknown, missing or malformed argument; the message lists the known ones.
        """
        if isinstance(inputs, str):
            raise ValueError(f"inputs must be paths such as ('student.logits',), got {inputs!r}")
        leaves, options = bind("argument", fn, hparams)
        schedule_leaves, _ = bind("schedule argument", schedule, schedule_hparams)
        weight = scalar("weight", weight)
        return cls(weight, leaves, schedule_leaves, fn, tuple(inputs), where, options, schedule)


LossSpec = Mapping[str, Term]


class Loss(NamedTuple):
    """A named loss: the function and the context paths of its positional arguments."""

    fn: Callable[..., jax.Array]
    inputs: tuple[str, ...]


_PENULTIMATE = ("student.hidden.penultimate", "teacher.hidden.penultimate")

LOSSES = {
    "attention_transfer": Loss(features.attention_transfer, _PENULTIMATE),
    "cosine": Loss(features.cosine, _PENULTIMATE),
    "cross_entropy": Loss(divergences.cross_entropy, ("student.logits", "batch.label")),
    "entropy_penalty": Loss(divergences.entropy_penalty, ("student.logits",)),
    "feature_l1": Loss(features.feature_l1, _PENULTIMATE),
    "hard_label": Loss(divergences.hard_label, ("student.logits", "teacher.logits")),
    "hint": Loss(features.hint, _PENULTIMATE),
    "label_smoothing": Loss(divergences.label_smoothing, ("student.logits", "batch.label")),
    "relational_angle": Loss(relations.relational_angle, _PENULTIMATE),
    "relational_distance": Loss(relations.relational_distance, _PENULTIMATE),
    "similarity_preserving": Loss(relations.similarity_preserving, _PENULTIMATE),
    "soft_cross_entropy": Loss(divergences.soft_cross_entropy, ("student.logits", "teacher.logits")),
    "softened_kl": Loss(divergences.softened_kl, ("student.logits", "teacher.logits")),
    "top_k_kl": Loss(divergences.top_k_kl, ("student.logits", "teacher.logits")),
}


def from_config(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Term]:
    """Build a spec from plain values, e.g. from a `ConfigDict`.

    Each term is a mapping with `fn` (a name in LOSSES) and `weight` (None drops the term). Optional keys are the
    function's own keyword arguments, `inputs` (context paths, by default those of LOSSES), `where` (the path of a mask
    of examples), `schedule` ({"name": a name in SCHEDULES, **its keyword arguments}) and `projector`.

    A `projector`, "linear" or "conv", is a head between the student's layer and the loss, for a teacher's layer of
    another shape. The term then reads "<its own name>.logits" in place of its first input; `projectors` says which
    heads must put their outputs there. "" means no projector.

    Raises:
      ValueError: with a one-line message that names the term and lists the known names.
    """
    return {name: term for name, (term, _) in _read(config).items()}


def projectors(config: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """The heads that `from_config(config)` requires: {term: (kind, path in the student, path in the teacher)}.

    >>> layers = ("student.hidden.hidden2", "teacher.hidden.pool")
    >>> config = {"fm": {"fn": "hint", "weight": 1.0, "inputs": layers, "projector": "linear"}}
    >>> projectors(config), from_config(config)["fm"].inputs
    ({'fm': ('linear', 'student.hidden.hidden2', 'teacher.hidden.pool')}, ('fm.logits', 'teacher.hidden.pool'))

    Raises:
      ValueError: as `from_config`.
    """
    return {name: head for name, (_, head) in _read(config).items() if head is not None}


def terms(spec: LossSpec, context: Mapping[str, Any], *, step: ArrayLike) -> dict[str, Mean]:
    """The unweighted mean of every term over its examples.

    Args:
      spec: the terms by name.
      context: {"student": outputs, "teacher": outputs, "batch": {...}}; paths go through mapping keys and
        attributes.
      step: the optimiser step. `combine` uses it to schedule the weights; currently no mean depends on it.

    Returns:
      One `Mean` per term. Examples that its `where` excludes affect neither value nor gradient, even if they are nan.

    Raises:
      ValueError: if a path does not exist (the message lists what does), or if shapes are incompatible.
    """
    del step
    if not all(isinstance(term, Term) for term in spec.values()):
        raise ValueError(f"expected a spec of Terms, got {dict(spec)!r}; from_config builds one")
    return {name: _evaluate(name, term, context) for name, term in spec.items()}


def combine(means: Mapping[str, Mean], spec: LossSpec, *, step: ArrayLike) -> jax.Array:
    """The scalar to minimise: the sum over the spec of weight * schedule(step) * mean.

    Call it last, after merging the means of micro-batches and hosts. It is linear in each `Mean.sum`, so gradients
    accumulate too: if every micro-batch's sum is divided by the count of the whole batch, they simply add.

    Raises:
      ValueError: if a term of the spec has no mean. Means without a term are ignored.
    """
    total = jnp.zeros((), jnp.float32)
    for name, term in spec.items():
        factor = term.weight * term.schedule(step, **term.schedule_hparams)
        total += factor * required(means, name).value
    return total


def _evaluate(name: str, term: Term, context: Mapping[str, Any]) -> Mean:
    try:
        arrays = [resolve(context, path) for path in term.inputs]
        where = None if term.where is None else resolve(context, term.where)
        if where is not None:  # masking only the losses would let 0 * nan through in the backward pass
            arrays = [_blank(array, where) for array in arrays]
        mask = {"where": where} if _compares_examples(term.fn) else {}
        return Mean.of(term.fn(*arrays, **term.hparams, **dict(term.options), **mask), where)
    except ValueError as error:
        raise ValueError(f"loss term {name!r}: {error}") from error


def _blank(array: jax.Array, where: jax.Array) -> jax.Array:
    """The array [..., *features] with zeros in the examples [...] that `where` [...] excludes."""
    if array.shape[: where.ndim] != where.shape:
        raise ValueError(f"the mask's shape {where.shape} must be the leading axes of each input, got {array.shape}")
    mask = where.astype(bool).reshape(where.shape + (1,) * (array.ndim - where.ndim))
    return jnp.where(mask, array, jnp.zeros_like(array))


_TERM_FIELDS = ("fn", "inputs", "projector", "schedule", "weight", "where")
_CONTEXT = ("student", "teacher", "batch")


def _read(config: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Term, tuple[str, str, str] | None]]:
    """Every term that is not dropped, and the head that it needs, if any."""
    spec = {}
    for name, settings in config.items():
        try:
            required(settings, "fn")
            if required(settings, "weight") is not None:
                fields = {field: value for field, value in settings.items() if field != "projector"}
                spec[name] = _projected(name, _term(**fields), settings.get("projector", ""))
        except ValueError as error:
            raise ValueError(f"loss term {name!r}: {error}") from None
    if not spec:
        raise ValueError(f"a loss needs a term whose weight is not None, got the terms {list(config.keys())}")
    return spec


def _projected(name: str, term: Term, projector: str) -> tuple[Term, tuple[str, str, str] | None]:
    if projector == "":
        return term, None
    check_member("projector", projector, PROJECTORS)
    if len(term.inputs) < 2:
        raise ValueError(f"a projector needs a student's and a teacher's layer, got the inputs {term.inputs}")
    if name in _CONTEXT or "." in name:
        raise ValueError(f"the name of a term with a projector must be none of {', '.join(_CONTEXT)} and have no dots")
    student, teacher, *others = term.inputs
    return dataclasses.replace(term, inputs=(f"{name}.logits", teacher, *others)), (projector, student, teacher)


def _term(*, fn: str, weight: ArrayLike, inputs=None, where=None, schedule=None, **hparams) -> Term:
    loss = lookup("loss", fn, LOSSES)
    for field in hparams:
        check_member("field", field, (*_TERM_FIELDS, *knobs_of(loss.fn)))
    _in_range({"weight": weight, **hparams})
    inputs = loss.inputs if inputs is None else inputs
    if isinstance(inputs, str) or len(inputs) != len(loss.inputs) or not all(isinstance(p, str) for p in inputs):
        raise ValueError(f"inputs must be {len(loss.inputs)} paths such as {loss.inputs}, got {inputs!r}")
    schedule = {"name": "constant"} if schedule is None else schedule
    factor = lookup("schedule", required(schedule, "name"), schedules.SCHEDULES)
    knobs = {field: value for field, value in schedule.items() if field != "name"}
    schedules.check_knobs(knobs)
    return Term.of(
        loss.fn, inputs, weight=weight, hparams=hparams, where=where, schedule=factor, schedule_hparams=knobs
    )


def _in_range(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a plain number outside its range; arrays may be traced and are not checked."""
    for field, value in settings.items():
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            check(field, value, divergences.RANGES.get(field, Range()))


def _compares_examples(fn: Callable[..., Any]) -> bool:
    where = inspect.signature(fn, eval_str=True).parameters.get("where")
    return where is not None and where.annotation == relations.ExampleMask
