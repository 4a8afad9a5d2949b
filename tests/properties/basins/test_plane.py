"""kdib.properties.basins.plane: its geometry in closed form, the grid, and what is shown."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from kdib.models.base import Model, Outputs
from kdib.properties.basins import plane as module
from kdib.properties.basins.plane import exhibit, margins, plane_losses, plane_through, trio
from kdib.records import Subject
from kdib.tasks.base import Dataset

# a + 3 along one axis, and 1 along it and 2 along another: on the plane at (0, 0), (3, 0) and (1, 2).
A = {"w": np.arange(6, dtype="f").reshape(2, 3), "b": np.ones(2, "f")}
B = {"w": A["w"] + np.array([[3, 0, 0], [0, 0, 0]], "f"), "b": A["b"]}
C = {"w": A["w"] + np.array([[1, 0, 0], [0, 0, 0]], "f"), "b": A["b"] + np.array([0, 2], "f")}


def test_the_three_networks_are_where_they_should_be():
    plane = plane_through(A, B, C)
    np.testing.assert_allclose(plane.points_3x2, [[0, 0], [3, 0], [1, 2]], atol=1e-12)
    np.testing.assert_allclose(plane.weights(plane.points_3x2), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(plane.weights([[-5.0, 0.7]]).sum(), 1)


def test_distances_on_the_plane_are_those_of_the_parameters():
    rng = np.random.default_rng(0)
    three = [{"w": rng.normal(size=40).astype("f")} for _ in range(3)]
    points = plane_through(*three).points_3x2
    for i, j in ((0, 1), (0, 2), (1, 2)):
        distance = np.linalg.norm(three[i]["w"] - three[j]["w"])
        assert np.linalg.norm(points[i] - points[j]) == pytest.approx(distance, rel=1e-6)


def test_the_grid_is_a_map_of_the_plane():
    """A metric linear in the parameters is linear in the coordinates: here the two that differ."""
    xs, ys = np.array([-1.0, 0, 3, 4]), np.array([0.0, 2, 5])
    grid = plane_losses(lambda p: {"x": p["w"][0, 0], "both": jnp.stack([p["w"][0, 0], p["b"][1]])}, A, B, C, xs, ys)
    assert grid["x"].shape == (3, 4) and grid["both"].shape == (3, 4, 2)
    np.testing.assert_allclose(grid["x"], np.broadcast_to(xs, (3, 4)), atol=1e-5)
    np.testing.assert_allclose(grid["both"][:, :, 1], np.broadcast_to(1 + ys[:, None], (3, 4)), atol=1e-5)


def test_margins_hold_the_networks():
    xs, ys = margins(plane_through(A, B, C), 5, beyond=0.5)
    np.testing.assert_allclose(xs, [-1.5, 0, 1.5, 3, 4.5])
    np.testing.assert_allclose(ys, [-1, 0, 1, 2, 3])


def test_networks_on_a_line_have_no_plane():
    middle = {name: (A[name] + B[name]) / 2 for name in A}
    for three in ((A, B, middle), (A, B, B), (A, A, B), (A, A, A)):
        with pytest.raises(ValueError, match="not on one line"):
            plane_through(*three)
    with pytest.raises(ValueError, match=r"at \['b'\]"):
        plane_through(A, B, C | {"b": np.ones(3, "f")})


def flat():
    """Logits are the parameters."""

    def apply(params, model_state, batch, *, train, key):
        return Outputs(jnp.broadcast_to(params["w"][None], (len(batch["label"]), 3)), {}), model_state

    return Model(init=lambda key, batch: {}, apply=apply)


def study(fits, n_seeds=2):
    model = flat()
    subjects = [Subject(f"{f}/seed{s}@9", f, s, f"seed{s}", 9, f) for f in fits for s in range(n_seeds)]
    rng = np.random.default_rng(4)
    nets = {
        s.id: (flat() if s.fit == "cnn" else model, {"params": {"w": rng.normal(size=3).astype("f")}}) for s in subjects
    }
    data = Dataset({"label": np.array([0, 1, 2, 0], np.int32)}, {})
    roles = {"teacher": "cnn", "alone": "alone", "self": "self", "distilled": "distilled"}
    return subjects, types.SimpleNamespace(
        sets={"test": data}, train=data, fits=roles, network=lambda subject: nets[subject.id]
    )


def test_the_contours_are_of_the_first_seeds_three_students(monkeypatch):
    monkeypatch.setattr(module, "PLANE_POINTS", 4)
    subjects, evidence = study(("cnn", "alone", "self", "distilled", "control"))
    shown = exhibit(subjects, evidence)
    (block,) = json.loads(json.dumps(shown))["blocks"]
    assert block["names"] == ["alone/seed0", "self/seed0", "distilled/seed0"]
    assert (block["kind"], block["label"]) == ("contour", "cross-entropy (nats)")
    assert np.shape(block["z"]) == (4, 4) and len(block["x"]) == len(block["y"]) == 4
    weights = [evidence.network(s)[1]["params"]["w"] for s in trio(subjects, evidence)]
    expected = [np.mean([np.log(np.exp(w).sum()) - w[label] for label in (0, 1, 2, 0)]) for w in weights]
    for name, loss in zip(block["names"], expected, strict=True):
        assert f"{name} {loss:.3f}" in block["alt"]
    grid = np.stack(np.meshgrid(block["x"], block["y"]), -1).reshape(-1, 2)
    at = plane_through(*({"w": w} for w in weights)).weights(grid) @ np.stack(weights)
    losses = np.mean([np.log(np.exp(at).sum(1)) - at[:, label] for label in (0, 1, 2, 0)], axis=0)
    np.testing.assert_allclose(block["z"], losses.reshape(4, 4), rtol=1e-4)


def test_other_seeds_stand_in_and_fewer_than_three_are_not_drawn():
    subjects, evidence = study(("cnn", "alone", "distilled"))
    assert [s.id for s in trio(subjects, evidence)] == ["alone/seed0@9", "distilled/seed0@9", "alone/seed1@9"]
    subjects, evidence = study(("cnn", "alone"))
    assert exhibit(subjects, evidence)["blocks"] == []
    subjects, evidence = study(("alone", "self", "distilled"))
    networks, own = {s.fit: evidence.network(s) for s in subjects if s.seed == 0}, evidence.network
    evidence.network = lambda s: networks["alone"] if (s.fit, s.seed) == ("distilled", 0) else own(s)
    shown = exhibit(subjects, evidence)  # `distilled` is `alone`: a line
    assert shown["blocks"] == [] and shown["caption"].startswith(
        "Not drawn: expected three networks that are not on one"
    )
