"""The plane through three networks in parameter space: their coordinates, and a metric on a grid of points."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdib.models.base import split
from kdib.properties.base import Evidence
from kdib.properties.basins.interpolation import check_alike, combinations
from kdib.properties.basins.program import answers_at, data_of
from kdib.records import Subject

PLANE_POINTS = 15  # points along each side of the grid
PLANE_EXAMPLES = 500  # examples of the test set, and of the training set for batch statistics


class Plane(NamedTuple):
    """Orthogonal coordinates (x, y) [3, 2] of three networks, in units of distance in parameter space.

    The first network is at (0, 0), the second at (x, 0) with x > 0, and the third off the line through both.
    """

    points_3x2: np.ndarray

    def weights(self, points_Px2: Any) -> np.ndarray:
        """The weights [P, 3] of the three networks at points [P, 2]; each row sums to 1."""
        points_Px2 = np.asarray(points_Px2, np.float64)
        (_, (width, _), (along, height)) = self.points_3x2
        third_P = points_Px2[:, 1] / height
        second_P = (points_Px2[:, 0] - third_P * along) / width
        return np.stack([1 - second_P - third_P, second_P, third_P], axis=1)


def plane_through(params_a: Any, params_b: Any, params_c: Any) -> Plane:
    """The plane through three networks of one architecture: x points from a to b, y along the orthogonal part of c - a.

    Raises:
      ValueError: for parameters that do not match (as in `interpolation_path`), or three networks on one line.
    Reference: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of
    DNNs, NeurIPS (2018), appendix A.1.
    """
    check_alike((params_a, params_b, params_c))
    to_b, to_c = (_difference(params, params_a) for params in (params_b, params_c))
    bb, bc, cc = (sum(float(np.vdot(x, y)) for x, y in zip(*of, strict=True)) for of in _products(to_b, to_c))
    height_squared = cc - bc**2 / bb if bb else 0.0
    if height_squared <= 1e-10 * cc:
        raise ValueError(f"expected three networks that are not on one line, got squared distances {bb:.3g}, {cc:.3g}")
    width = np.sqrt(bb)
    return Plane(np.array([[0, 0], [width, 0], [bc / width, np.sqrt(height_squared)]]))


def plane_losses(
    metric_fn: Callable[[Any], Any],
    params_a: Any,
    params_b: Any,
    params_c: Any,
    xs_X: Any,
    ys_Y: Any,
    *,
    chunk: int | None = None,
) -> Any:
    """A metric on a grid in the plane through three networks, in one compiled program: metric_fn's pytree [Y, X, ...].

    Args:
      metric_fn, chunk: as in `interpolation_path`.
      params_a, params_b, params_c: pytrees of float32 of the same structure and shapes.
      xs_X, ys_Y: coordinates as in `plane_through`.

    Raises:
      ValueError: as in `plane_through` and `interpolation_path`.
    """
    plane = plane_through(params_a, params_b, params_c)
    grid_YxXx2 = np.stack(np.meshgrid(np.asarray(xs_X), np.asarray(ys_Y)), axis=-1)
    weights = plane.weights(grid_YxXx2.reshape(-1, 2))
    values = combinations(metric_fn, (params_a, params_b, params_c), weights, chunk=chunk)
    return jax.tree.map(lambda leaf: leaf.reshape(*grid_YxXx2.shape[:2], *leaf.shape[1:]), values)


def margins(plane: Plane, n: int, beyond: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """xs [n] and ys [n] of a grid around the three networks, with a margin of `beyond` times their extent."""
    low_2, high_2 = plane.points_3x2.min(axis=0), plane.points_3x2.max(axis=0)
    more_2 = beyond * (high_2 - low_2)
    xs_X, ys_Y = np.linspace(low_2 - more_2, high_2 + more_2, n).T
    return xs_X, ys_Y


def _difference(params: Any, origin: Any) -> list[np.ndarray]:
    """The difference of each leaf in float64, since networks are closer to each other than to zero."""
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(origin), strict=True)
    return [np.asarray(leaf, np.float64) - np.asarray(base, np.float64) for leaf, base in leaves]


def _products(to_b: list[np.ndarray], to_c: list[np.ndarray]) -> tuple[tuple[list[np.ndarray], ...], ...]:
    return (to_b, to_b), (to_b, to_c), (to_c, to_c)


# ------------------------------------------------------------------------------------- exhibit for the report

_CAPTION = (
    f"Cross-entropy on {PLANE_EXAMPLES} test examples in the plane through three networks. Axes are distances in "
    "parameter space: x points from the first network to the second, and y is orthogonal to x."
)


def trio(subjects: Sequence[Subject], evidence: Evidence) -> list[Subject]:
    """Three networks of one architecture: alone, self and distilled of the first seed.

    If a study lacks some of them, the next seeds of these fits, in this order, take their place. The list is empty if
    there are fewer than three.
    """
    fits = [evidence.fits[role] for role in ("alone", "self", "distilled") if role in evidence.fits]
    candidates = sorted((s for s in subjects if s.fit in fits), key=lambda s: (s.seed, fits.index(s.fit)))
    if not candidates:
        return []
    model = evidence.network(candidates[0])[0]
    alike = [subject for subject in candidates if evidence.network(subject)[0] == model]
    return alike[:3] if len(alike) >= 3 else []


def exhibit(subjects: Sequence[Subject], evidence: Evidence) -> dict[str, Any]:
    """The plane through `trio` as contours of the cross-entropy on test examples, JSON-able."""
    title, three = "A plane through three networks", trio(subjects, evidence)
    if not three:
        why = "Not drawn: the study has fewer than three networks of one architecture."
        return {"title": title, "caption": why, "blocks": []}
    try:
        plane = plane_through(*(split(evidence.network(subject)[1])[0] for subject in three))
    except ValueError as error:  # two fits may have the same loss and seeds, and so the same networks
        return {"title": title, "caption": f"Not drawn: {error}.", "blocks": []}
    return {"title": title, "caption": _CAPTION, "blocks": [_contour(plane, three, evidence)]}


def _contour(plane: Plane, three: Sequence[Subject], evidence: Evidence) -> dict[str, Any]:
    networks = [evidence.network(subject) for subject in three]
    xs_X, ys_Y = margins(plane, PLANE_POINTS)
    grid_Px2 = np.stack(np.meshgrid(xs_X, ys_Y), axis=-1).reshape(-1, 2)
    weights_Px3 = np.concatenate([plane.weights(grid_Px2), np.eye(3)])
    losses_P = answers_at(networks, weights_Px3, data_of(evidence, PLANE_EXAMPLES))["test"].loss
    names = [subject.id.partition("@")[0] for subject in three]
    at = ", ".join(f"{name} {loss:.3f}" for name, loss in zip(names, losses_P[-3:], strict=True))
    return {
        "kind": "contour",
        "names": names,
        "x": xs_X.tolist(),
        "y": ys_Y.tolist(),
        "z": losses_P[:-3].reshape(PLANE_POINTS, PLANE_POINTS).tolist(),
        "points": plane.points_3x2.tolist(),
        "label": "cross-entropy (nats)",
        "alt": f"Cross-entropy on the plane through three networks, in nats. At the networks: {at}. "
        f"Lowest on the grid {losses_P[:-3].min():.3f}, highest {losses_P[:-3].max():.3f}.",
    }
