"""Sharpness of the minimum that a network has found: top eigenvalue and trace of the Hessian of the loss.

Metrics of the rows, at group "" and coords (): "top_eigenvalue" and "trace". The loss is the mean cross-entropy (nats;
for a language model over tokens) on at most N_EXAMPLES evenly spaced training examples, in evaluation mode. The rows
carry the name of the first test set, although they do not use it. Neither number is invariant to rescaling weights that
a normalization or the next layer undoes (Dinh, Pascanu, Bengio, Bengio, ICML 2017): compare networks of the same
architecture and training recipe only.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from kdib.models.base import Batch, Model, Variables, split
from kdib.properties.base import Evidence, Primary, Property, evenly
from kdib.properties.basins.interpolation import batched, check_alike, sums_of
from kdib.records import Row, Subject
from kdib.tasks.base import gather

N_EXAMPLES = 500
BATCH, LANGUAGE_BATCH = 100, 25  # examples whose activations are in memory at a time
N_MATVECS = 20  # Lanczos steps
N_PROBES = 20  # Hutchinson probes
EXHAUSTED = 1e-5  # Lanczos ends when its next vector is this small relative to the matrix
SEED = 0  # of the Lanczos start and of the probes; the same for every network


class Sharpness(NamedTuple):
    """The largest eigenvalue of a symmetric matrix, its trace, and the standard error of the trace over probes."""

    top_eigenvalue: jax.Array
    trace: jax.Array
    trace_se: jax.Array


def hessian_product(loss_fn: Callable[[Any], jax.Array], params: Any, vector: Any) -> Any:
    """The Hessian of the scalar loss_fn(params) times `vector`, a pytree like params, by forward over reverse mode.

    Reference: Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 6 (1994).
    """
    return jax.jvp(jax.grad(loss_fn), (params,), (vector,))[1]


def sharpness(
    matvec: Callable[[Any], Any],
    like: Any,
    key: jax.Array,
    *,
    n_matvecs: int = N_MATVECS,
    n_probes: int = N_PROBES,
) -> Sharpness:
    """The top eigenvalue (Lanczos, fully reorthogonalised) and the trace (Hutchinson) of a symmetric matrix.

    Memory holds n_matvecs vectors. The eigenvalue is approached from below and is exact if n_matvecs is at least the
    number of distinct eigenvalues. No more products are computed than a vector has entries.

    Args:
      matvec: vector -> matrix times vector, both pytrees like `like`.
      like: pytree of float32 with the shapes of a vector; its values are not read.
      key: draws the Lanczos start and the probes, all of them random signs.
      n_matvecs: matrix-vector products for the eigenvalue, at least 1.
      n_probes: probes for the trace, at least 2, since the standard error needs two.

    Raises:
      ValueError: for fewer products or probes, or a vector that is not float32.
    Reference: Ghorbani, Krishnan, Xiao, An Investigation into Neural Net Optimization via Hessian Eigenvalue Density,
    ICML (2019); Hutchinson (1989). Both by matfree (Krämer et al., 2024).
    """
    from matfree import stochtrace

    check_alike([like])
    if n_matvecs < 1 or n_probes < 2:
        raise ValueError(f"expected n_matvecs >= 1 and n_probes >= 2, got {n_matvecs} and {n_probes}")
    start_key, probe_key = jax.random.split(key)
    flat, unravel = ravel_pytree(like)
    sampler = stochtrace.sampler_signs(flat, num=1)
    one = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), sampler)

    def flat_matvec(vector):
        return ravel_pytree(matvec(unravel(vector)))[0]

    top = _top_eigenvalue(flat_matvec, sampler(start_key)[0], min(n_matvecs, flat.size))
    # One probe at a time, since a vmap over probes would keep the activations of all of them in memory.
    traces_P = jax.lax.map(lambda own: one(flat_matvec, own), jax.random.split(probe_key, n_probes))
    return Sharpness(top, traces_P.mean(), traces_P.std(ddof=1) / jnp.sqrt(n_probes))


def _top_eigenvalue(matvec: Callable[[jax.Array], jax.Array], start: jax.Array, n_matvecs: int) -> jax.Array:
    """The largest eigenvalue of the tridiagonal Lanczos matrix (Arnoldi's method for a symmetric matrix).

    Once the vectors span the whole Krylov space of the start, the next vector is rounding noise, and everything that
    matfree returns from there on is noise or nan. It is cut off.
    """
    from matfree import decomp

    found_MxM: Any = decomp.hessenberg(n_matvecs, reortho="full", custom_vjp=False)(matvec, start).J_small
    diagonal_M, beside_M = jnp.diag(found_MxM), jnp.diag(found_MxM, -1)
    size_M = jnp.maximum(jax.lax.cummax(jnp.abs(diagonal_M)), jnp.finfo(jnp.float32).tiny)
    goes_on_M = jnp.cumprod(beside_M > EXHAUSTED * size_M[:-1]).astype(bool)
    diagonal_M = diagonal_M.at[1:].set(jnp.where(goes_on_M, diagonal_M[1:], diagonal_M[0]))
    beside_M = jnp.where(goes_on_M, beside_M, 0)
    return jnp.linalg.eigvalsh(jnp.diag(diagonal_M) + jnp.diag(beside_M, 1) + jnp.diag(beside_M, -1)).max()


@functools.partial(jax.jit, static_argnames=("model", "n_matvecs", "n_probes"))
def of_network(
    variables: Variables,
    batches: Batch,
    key: jax.Array,
    *,
    model: Model,
    n_matvecs: int = N_MATVECS,
    n_probes: int = N_PROBES,
) -> Sharpness:
    """`sharpness` of one network's mean loss on batches [n, B, ...] (`basins.interpolation.batched`).

    Products are summed batch by batch, so only one batch is in memory at a time.
    """
    params, model_state = split(variables)

    def summed(params, batch):
        outputs, _ = model.apply(params, model_state, batch, train=False, key=None)
        return sums_of(outputs.logits, batch).loss

    def matvec(vector):
        def add(total, batch):
            product = hessian_product(lambda p: summed(p, batch).sum, params, vector)
            return jax.tree.map(jnp.add, total, product), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)
        return jax.tree.map(lambda leaf: leaf / count, total)

    count = jax.lax.map(lambda batch: summed(params, batch).count, batches).sum()
    return sharpness(matvec, params, key, n_matvecs=n_matvecs, n_probes=n_probes)


def measure(subjects: Sequence[Subject], evidence: Evidence) -> Iterator[Row]:
    """The rows of every subject on a sample of the training set, with one compiled program per architecture."""
    if evidence.train is None:
        raise ValueError("expected evidence with training examples (train), on which the loss is computed; got none")
    inputs = gather(evidence.train.inputs, evenly(evidence.train.size, N_EXAMPLES))
    batches = batched(inputs, LANGUAGE_BATCH if "mask" in inputs else BATCH)
    split_name = next(iter(evidence.sets))
    for subject in subjects:
        model, variables = evidence.network(subject)
        found = jax.device_get(of_network(variables, batches, jax.random.key(SEED), model=model))
        if not np.isfinite(found).all():
            raise FloatingPointError(f"{subject.id}: the curvature of its loss is not finite: {found}")
        for metric in ("top_eigenvalue", "trace"):
            key = (subject.id, None, "sharpness", metric, split_name, "", ())
            yield Row(*key, float(getattr(found, metric)), len(inputs["label"]), None)


PROPERTY = Property(
    name="sharpness",
    title="Sharpness",
    kind="scalar",
    primary=Primary("top_eigenvalue", split="", group=""),
    higher_is_better=None,
    measure=measure,
    caption=f"The largest eigenvalue of the Hessian of the cross-entropy on {N_EXAMPLES} evenly spaced training "
    f"examples (or all, if there are fewer), from {N_MATVECS} Lanczos steps, and its trace, from {N_PROBES} random "
    "probes. Larger is sharper.",
    reference="Ghorbani, Krishnan, Xiao (ICML 2019); Hutchinson (1989); computed with matfree",
    caveat="Rescaling the weights can change sharpness without changing the function (Dinh et al., ICML 2017). Compare "
    "networks of the same architecture and training recipe only, not a student with its teacher.",
)
