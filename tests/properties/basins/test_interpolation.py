"""kdib.properties.basins.interpolation: closed forms, ends to the bit, one program, flat memory, and a data set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.models.base import Model, Outputs
from kdib.properties.basins import interpolation
from kdib.properties.basins.interpolation import barrier, batched, interpolation_path, loss_and_error, sums_of


def two(seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"layer": {"kernel": rng.normal(size=(5, 3)).astype("f"), "bias": rng.normal(size=3).astype("f")}}
        for _ in range(2)
    ]


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_the_path_is_numpys_and_its_ends_are_the_networks(chunk):
    a, b = two()
    alphas = np.array([0, 0.1, 1 / 3, 0.5, 0.9, 1, 1.5], "f")
    path = interpolation_path(lambda p: {"params": p, "sum": p["layer"]["kernel"].sum()}, a, b, alphas, chunk=chunk)
    for name in ("kernel", "bias"):
        found = np.asarray(path["params"]["layer"][name])
        np.testing.assert_array_equal(found[0], a["layer"][name])  # to the bit
        np.testing.assert_array_equal(found[5], b["layer"][name])
        weights = alphas.astype("d").reshape(-1, *[1] * (found.ndim - 1))
        np.testing.assert_allclose(found, (1 - weights) * a["layer"][name] + weights * b["layer"][name], atol=1e-6)
    np.testing.assert_allclose(path["sum"], path["params"]["layer"]["kernel"].sum((1, 2)), rtol=1e-5)


def test_one_program_serves_a_function_and_memory_is_flat_in_the_points():
    a, b = two()
    traces = []

    def metric(params):
        traces.append(1)
        return jnp.tanh(jnp.ones((400, 5)) @ params["layer"]["kernel"]).sum()

    for _ in range(2):
        interpolation_path(metric, a, b, np.linspace(0, 1, 9), chunk=4)
    assert len(traces) == 1
    analyses = [
        interpolation._combinations.lower(metric, (a, b), jnp.zeros((n, 2)), 4).compile().memory_analysis()
        for n in (8, 400)
    ]
    small, large = (analysis.temp_size_in_bytes for analysis in analyses)
    assert large <= small + 400 * 64  # bytes a point: its weights and its metric


def test_the_chunk_follows_the_largest_step(monkeypatch):
    chunks = []
    monkeypatch.setattr(interpolation, "_combinations", lambda *of: chunks.append(of[-1]))
    a, b = ({"w": jnp.full((256, 256), value, jnp.float32)} for value in (0, 1))
    for width in (64, 2**16):
        interpolation_path(lambda p, width=width: jnp.ones((width, 256)) @ p["w"], a, b, np.linspace(0, 1, 99))
    assert chunks[0] > 1 and chunks[1] == 1  # 0.8 and 134 MB


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: {"layer": p["layer"] | {"bias": p["layer"]["bias"].astype("d")}}, r"float64.*\['layer'\]\['bias'\]"),
        (lambda p: {"layer": p["layer"] | {"bias": np.zeros(4, "f")}}, r"\(3,\) and .*\(4,\) at \['layer'\]\['bias'\]"),
        (lambda p: {"layer": {"kernel": p["layer"]["kernel"]}}, r"\(3,\) and nothing at \['layer'\]\['bias'\]"),
        (lambda p: p | {"head": np.zeros(1, "f")}, r"got nothing and float32 of shape \(1,\) at \['head'\]"),
    ],
)
def test_parameters_that_differ_are_refused_by_leaf(change, message):
    a, b = two()
    with pytest.raises(ValueError, match=message):
        interpolation_path(lambda p: 0, a, change(b), [0, 1])
    with pytest.raises(ValueError, match="float32 parameters, got int32"):
        interpolation_path(lambda p: 0, *[{"w": np.zeros(2, np.int32)}] * 2, [0, 1])


def test_alphas_and_chunks_are_checked():
    a, b = two()
    for alphas in ([], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match="expected alphas"):
            interpolation_path(lambda p: 0, a, b, alphas)
    with pytest.raises(ValueError, match="chunk >= 1, got 0"):
        interpolation_path(lambda p: 0, a, b, [0, 1], chunk=0)


def test_the_barrier_of_a_parabola():
    alphas = np.linspace(0, 1, 11)
    hill = 1 + 2 * alphas + 3 * alphas * (1 - alphas)  # 3 / 4 above its chord in the middle
    found = barrier(hill, alphas)
    assert found.above_chord == pytest.approx(0.75)
    assert found.above_mean == pytest.approx(hill[1:-1].max() - 2)
    assert found.above_mean > found.above_chord  # the ends differ


def test_a_convex_loss_sags_and_is_not_clipped():
    """|p - t|^2 along the line is |b - a|^2 alpha (alpha - 1) below its chord: a negative barrier."""
    a, b = two()
    alphas = np.linspace(0, 1, 5)
    squares = lambda p: sum(jnp.sum((leaf - 0.3) ** 2) for leaf in jax.tree.leaves(p))  # noqa: E731
    distance = sum(float(((x - y) ** 2).sum()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    found = barrier(interpolation_path(squares, a, b, alphas), alphas)
    assert found.above_chord == pytest.approx(-distance * 3 / 16, rel=1e-4)  # the highest inner points: 1/4 and 3/4


@pytest.mark.parametrize(
    "losses, alphas, message",
    [
        ([1.0, 1.0], [0, 1], "A > 2"),
        ([1.0, 2.0, 1.0], [0, 0.5, 0.9], "rise from 0 to 1"),
        ([1.0, 2.0, 1.0], [0, 0, 1], "rise from 0 to 1"),
        ([1.0, np.nan, 1.0], [0, 0.5, 1], "finite"),
    ],
)
def test_paths_without_a_barrier_are_refused(losses, alphas, message):
    with pytest.raises(ValueError, match=message):
        barrier(losses, alphas)


def linear():
    """Logits [B, K], or of "tokens" [B, L] a row of params a token [B, L, V]."""

    def apply(params, model_state, batch, *, train, key):
        logits = batch["x"] @ params["w"] if "x" in batch else jnp.asarray(params["w"])[batch["tokens"]]
        return Outputs(logits, {}), model_state

    return Model(init=lambda key, batch: {}, apply=apply)


def in_numpy(logits, labels):
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_probs, labels[..., None], -1)[..., 0], logits.argmax(-1) != labels


@pytest.mark.parametrize("size", [3, 64])
def test_a_data_set_is_counted_once_in_any_batches(size):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(10, 4)).astype("f"), rng.normal(size=(4, 3)).astype("f")
    labels = rng.integers(0, 3, 10).astype(np.int32)
    batches = batched({"x": x, "label": labels}, size)
    assert batches["counted"].sum() == 10 and batches["x"].shape[1] == min(size, 10)
    loss, error = loss_and_error(linear(), {"w": w}, {}, batches)
    losses, wrong = in_numpy(x @ w, labels)
    assert (float(loss), float(error)) == (pytest.approx(losses.mean(), rel=1e-5), pytest.approx(wrong.mean()))


def test_a_language_model_is_measured_by_tokens_and_chooses_by_its_two_words():
    rng = np.random.default_rng(2)
    w = rng.normal(size=(6, 6)).astype("f")
    tokens, target = rng.integers(0, 6, (2, 5, 16)).astype(np.int32)
    length = np.array([3, 6, 2, 5, 4], np.int32)
    mask = np.arange(16) < length[:, None]
    choices, position = rng.integers(0, 6, (5, 2)).astype(np.int32), (length - 1).astype(np.int32)
    label = np.array([0, 1, 1, 0, 1], np.int32)
    trained = {"tokens": tokens, "length": length, "label": target, "mask": mask}
    asked = {**trained, "label": label, "target": target, "choices": choices, "position": position}
    losses, wrong = in_numpy(w[tokens], target)
    chosen = np.take_along_axis(w[tokens[np.arange(5), position]], choices, axis=1)
    for inputs, error in ((trained, wrong[mask].mean()), (asked, (chosen.argmax(1) != label).mean())):
        batches = batched(inputs, 2)
        assert batches["tokens"].shape == (3, 2, 8)  # the padding that all share is cut off, to a multiple of 8
        found = loss_and_error(linear(), {"w": w}, {}, batches)
        assert float(found.loss) == pytest.approx(losses[mask].mean(), rel=1e-5)
        assert float(found.error) == pytest.approx(error)


def test_sums_leave_uncounted_rows_out():
    logits = jnp.array([[9.0, 0.0], [0.0, 9.0]])
    batch = {"label": jnp.array([0, 0]), "counted": jnp.array([True, False])}
    sums = jax.jit(sums_of)(logits, batch)
    assert float(sums.error.sum) == 0 and float(sums.error.count) == 1
