"""kdib.properties.translation: against numpy, a network that cannot see shifts, and rows counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.models import build
from kdib.models.base import Model, Outputs
from kdib.properties import translation
from kdib.properties.base import Evidence
from kdib.properties.translation import (
    FIDELITY,
    PROPERTY,
    RADIUS,
    by_radius,
    in_pieces,
    offset_grid,
    shifted,
    translation_grid,
)
from kdib.records import Subject
from kdib.tasks.base import Dataset

IMAGES = np.random.default_rng(0).integers(0, 4, (6, 16, 16, 1)).astype(np.uint8)
IMAGES[:, :4] = IMAGES[:, -4:] = IMAGES[:, :, :4] = IMAGES[:, :, -4:] = 0  # room to move: nothing falls off by 4


def moved(images, dy, dx):
    out = np.zeros_like(images)
    height, width = images.shape[1:3]
    rows, columns = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    from_rows, from_columns = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
    out[:, rows, columns] = images[:, from_rows, from_columns]
    return out


@pytest.mark.parametrize("chunk", [None, 1, 4, 25, 99])
def test_the_grid_is_numpys(chunk):
    images = np.random.default_rng(1).integers(0, 255, (3, 9, 7, 2)).astype(np.uint8)
    offsets = np.concatenate([offset_grid(2), [[8, -6], [9, 0]]])
    grid = translation_grid(lambda x: {"picture": x, "sum": x.sum()}, images, offsets, chunk=chunk)
    expected = np.stack([moved(images, dy, dx) for dy, dx in offsets[:-1]] + [np.zeros_like(images)])
    np.testing.assert_array_equal(grid["picture"], expected)
    np.testing.assert_array_equal(grid["sum"], expected.sum(axis=(1, 2, 3, 4)))


def test_one_program_serves_a_function_and_memory_is_flat_in_the_offsets():
    images = jnp.zeros((8, 28, 28, 1))
    traces = []

    def metric(x):
        traces.append(1)
        return jnp.tanh(x.reshape(8, -1) @ jnp.ones((784, 500))).sum()

    for _ in range(2):
        translation_grid(metric, images, offset_grid(2), chunk=5)
    assert len(traces) == 1
    memory = [
        translation._grid.lower(metric, images, jnp.array(offset_grid(r)), 5, "zero").compile().memory_analysis()
        for r in (1, 5)
    ]
    small, large = (analysis.temp_size_in_bytes for analysis in memory)
    assert large <= small + 121 * 64  # bytes an offset: its two numbers and its metric


def test_the_chunk_follows_the_largest_step(monkeypatch):
    images = jnp.zeros((10, 8, 8, 1), jnp.float32)
    matrix = jnp.zeros((64, 1000))
    monkeypatch.setattr(translation, "BUDGET", 10 * 2**20)
    read_and_written = 4 * (10 * 64 + 64 * 1000 + 10 * 1000)
    wide = lambda x: x.reshape(10, 64) @ matrix  # noqa: E731
    assert translation.fitting_chunk(wide, images) == 10 * 2**20 // read_and_written
    assert translation.fitting_chunk(jax.jit(wide), images) == 10 * 2**20 // read_and_written  # looks inside
    monkeypatch.setattr(translation, "BUDGET", 10)
    assert translation.fitting_chunk(wide, images) == 1


@pytest.mark.parametrize("pieces", range(1, 8))
def test_pieces_give_what_all_images_together_give(pieces, monkeypatch):
    evaluated = []

    def metric(batch):
        evaluated.append(len(batch["image"]))
        return batch["image"].astype(jnp.float32).sum(axis=(1, 2)), batch["id"] * 2

    batch = {"image": IMAGES, "id": np.arange(len(IMAGES), dtype=np.int32)}
    converted = 5 * IMAGES[:1].size * (len(IMAGES) - 1)  # bytes read and written for all images but one
    monkeypatch.setattr(translation, "BUDGET", -(-converted // pieces))
    got = jax.jit(in_pieces(metric))(batch)
    assert evaluated[-1] == -(-len(IMAGES) // min(pieces, len(IMAGES)))
    jax.tree.map(np.testing.assert_array_equal, got, metric(batch))


def test_weights_do_not_ask_for_pieces(monkeypatch):
    matrix, asked = jnp.ones((16 * 16, 1000)), []
    monkeypatch.setattr(translation, "BUDGET", 4 * 2000 * len(IMAGES))
    images = IMAGES.reshape(len(IMAGES), -1).astype(np.float32)
    in_pieces(lambda x: asked.append(len(x)) or x @ matrix)(images)
    assert asked[-1] == len(IMAGES)


def test_weights_larger_than_the_activations_do_not_hide_them(monkeypatch):
    heavy, evaluated = np.random.default_rng(0).integers(0, 4, (16 * 16, 5000)).astype(np.float32), []
    images = IMAGES.reshape(len(IMAGES), -1).astype(np.float32)

    def metric(x):
        evaluated.append(len(x))
        return (x[:, :, None] * jnp.ones((1, 1, 100))).sum((1, 2)) + (x @ heavy).sum(1)

    monkeypatch.setattr(translation, "BUDGET", 4 * 16 * 16 * 100 * 3)  # three images of the first step
    got = jax.jit(in_pieces(metric))(images)
    assert evaluated[-1] < len(IMAGES)
    np.testing.assert_allclose(got, metric(images), rtol=1e-6)


def test_a_network_that_computes_otherwise_on_one_image_answers_too():
    def metric(x):
        return x.sum((1, 2, 3)) if len(x) > 1 else (2 * x).sum((1, 2, 3)) // 2

    np.testing.assert_array_equal(in_pieces(metric)(IMAGES), metric(IMAGES))


def test_fractions_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"whole offsets \(dy, dx\), got 0.5"):
        translation_grid(jnp.sum, IMAGES, [[0, 0.5]])
    with pytest.raises(ValueError, match="integer type, got float32"):
        jax.jit(lambda offsets: translation_grid(jnp.sum, IMAGES, offsets))(jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"got \(6, 16, 16, 1\) and \(2,\)"):
        translation_grid(jnp.sum, IMAGES, [1, 2])
    with pytest.raises(ValueError, match="chunk >= 1, got 0"):
        translation_grid(jnp.sum, IMAGES, [[0, 0]], chunk=0)


def circular_cnn():
    """Circular 3 x 3 convolution, ReLU, global mean; small whole numbers, so that no sum is rounded."""

    def apply(params, model_state, batch, *, train, key):
        image = batch["image"].astype(jnp.float32)
        wrapped = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        dims = ("NHWC", "HWIO", "NHWC")
        features = jax.nn.relu(
            jax.lax.conv_general_dilated(wrapped, params["kernel"], (1, 1), "VALID", dimension_numbers=dims)
        )
        return Outputs(features.sum(axis=(1, 2)) @ params["out"], {}), model_state

    return Model(init=lambda key, batch: {}, apply=apply)


def variables(seed, n_classes=4):
    rng = np.random.default_rng(seed)
    kernel, out = rng.integers(-2, 3, (3, 3, 1, 8)), rng.integers(-2, 3, (8, n_classes))
    return {"params": {"kernel": jnp.array(kernel, jnp.float32), "out": jnp.array(out, jnp.float32)}}


def test_a_circular_cnn_is_exactly_invariant():
    batch = {"image": IMAGES, "label": np.zeros(6, np.int32)}
    answers = shifted(circular_cnn(), variables(0), batch, offset_grid(4))  # zeros come in, as zeros went out
    np.testing.assert_array_equal(answers.change_OxN, 0)
    assert (answers.choice_OxN == answers.choice_OxN[0]).all() and answers.norm_N.min() > 0
    further = shifted(circular_cnn(), variables(0), batch, np.array([[8, 0]]))
    assert further.change_OxN.min() > 0  # a part has fallen off


def test_a_circular_network_answers_alike_to_every_circular_shift():
    """The exact one, and the preset, whose sums over all positions are rounded in another order."""
    noise = np.random.default_rng(5).integers(0, 256, (6, 16, 16, 1), np.uint8)  # up to the edges
    batch = {"image": noise, "label": np.zeros(6, np.int32)}
    offsets = np.array([[0, 0], [1, 0], [-3, 5], [8, -8], [16, 31]])
    exact = shifted(circular_cnn(), variables(0), batch, offsets, fill="circular")
    np.testing.assert_array_equal(exact.change_OxN, 0)
    assert shifted(circular_cnn(), variables(0), batch, offsets).change_OxN[1:].min() > 0
    preset = build("cnn_small", num_classes=10, image_shape=(16, 16, 1), padding="circular", downsampling="none")
    answers = shifted(preset, preset.init(jax.random.key(0), batch), batch, offsets, fill="circular")
    assert answers.change_OxN.max() < 1e-5 * answers.norm_N.min()
    assert (answers.choice_OxN == answers.choice_OxN[0]).all()
    with pytest.raises(ValueError, match="unknown fill 'mirror'; known: zero, circular"):
        translation_grid(jnp.sum, IMAGES, offsets, fill="mirror")


def flat_model():
    """Logits linear in the pixels: it sees every shift."""

    def apply(params, model_state, batch, *, train, key):
        image = batch["image"].astype(jnp.float32)
        return Outputs(image.reshape(len(image), -1) @ params["out"], {}), model_state

    return Model(init=lambda key, batch: {}, apply=apply)


def subjects_and_evidence():
    rng = np.random.default_rng(3)
    model, names = flat_model(), ("student", "teacher")
    matrices = {name: rng.normal(size=(256, 3)).astype(np.float32) for name in names}
    asked = []

    def network(subject):
        asked.append(subject.id)
        return model, {"params": {"out": matrices[subject.fit]}}

    subjects = [Subject(f"{fit}/seed0@1", fit, 0, "seed0", 1, fit) for fit in names]
    dataset = Dataset({"image": IMAGES, "label": rng.integers(0, 3, 6).astype(np.int32), "id": np.arange(6)}, {})
    pairs = [tuple(subjects), (subjects[1], subjects[0])]
    return subjects, Evidence({"test": dataset}, lambda *_: None, pairs, network=network), matrices, asked


def in_numpy(matrix):
    """The centred logits [O, N, K] at every offset."""
    logits = np.stack(
        [moved(IMAGES, dy, dx).reshape(6, -1) @ matrix.astype(np.float64) for dy, dx in offset_grid(RADIUS)]
    )
    return logits - logits.mean(axis=-1, keepdims=True)


def test_rows_are_numpys():
    subjects, evidence, matrices, _ = subjects_and_evidence()
    rows = list(PROPERTY.measure(subjects, evidence))
    assert len({row.key for row in rows}) == len(rows) == 2 * ((2 * RADIUS + 1) ** 2 + 3 * (RADIUS + 1) + 3)
    values = {(row.metric, row.group, row.coords): row.value for row in rows if row.subject == subjects[0].id}
    logits_OxNxK, offsets = in_numpy(matrices["student"]), offset_grid(RADIUS)
    radius = np.abs(offsets).max(axis=1)
    still = logits_OxNxK[radius == 0][0]
    correct = logits_OxNxK.argmax(-1) == evidence.sets["test"].inputs["label"]
    same = logits_OxNxK.argmax(-1) == still.argmax(-1)
    error = np.linalg.norm(logits_OxNxK - still, axis=-1) / np.linalg.norm(still, axis=-1).mean()
    for (dy, dx), correct_N in zip(offsets.tolist(), correct, strict=True):
        assert values["accuracy", "offset", (("dx", dx), ("dy", dy))] == pytest.approx(correct_N.mean())
    rings = {"accuracy": correct, "consistency": same, "equivariance_error": error}
    for metric, of in rings.items():
        for r in range(RADIUS + 1):
            found = values[metric, "radius", (("radius", r),)]
            assert found == pytest.approx(of[radius == r].mean(), rel=1e-4, abs=1e-6), (metric, r)
    ring = {m: [values[m, "radius", (("radius", r),)] for r in range(RADIUS + 1)] for m in rings}
    primary = PROPERTY.primary
    assert values[primary.metric, primary.group, ()] == pytest.approx(np.mean(ring["accuracy"]))
    assert values["mean_consistency", "radius", ()] == pytest.approx(np.mean(ring["consistency"][1:]))
    assert values["mean_equivariance_error", "radius", ()] == pytest.approx(np.mean(ring["equivariance_error"][1:]))
    assert 0 < values["mean_consistency", "radius", ()] < 1


def test_fidelity_compares_moved_images_and_asks_each_network_once():
    subjects, evidence, matrices, asked = subjects_and_evidence()
    rows = [row for row in FIDELITY.measure([], evidence) if row.subject == subjects[0].id]
    assert sorted(asked) == sorted(subject.id for subject in subjects)
    same = in_numpy(matrices["student"]).argmax(-1) == in_numpy(matrices["teacher"]).argmax(-1)
    expected = by_radius(same, offset_grid(RADIUS)).mean(axis=1)
    np.testing.assert_allclose([row.value for row in rows], [*expected, expected[1:].mean()])
    assert {(row.other, row.split, row.group, row.n) for row in rows} == {(subjects[1].id, "test", "radius", 6)}
    assert rows[-1].metric == FIDELITY.primary.metric and rows[-1].coords == ()


def test_a_network_that_says_nothing_has_no_equivariance_error():
    subjects, evidence, _, _ = subjects_and_evidence()
    constant = evidence._replace(network=lambda subject: (flat_model(), {"params": {"out": jnp.zeros((256, 3))}}))
    values = {row.metric: row.value for row in PROPERTY.measure(subjects[:1], constant) if not row.coords}
    assert values["mean_equivariance_error"] is None and values["mean_consistency"] == 1


def test_not_finite_and_not_images_are_refused():
    subjects, evidence, _, _ = subjects_and_evidence()
    broken = evidence._replace(network=lambda subject: (flat_model(), {"params": {"out": jnp.full((256, 3), jnp.nan)}}))
    with pytest.raises(FloatingPointError, match="not finite"):
        list(PROPERTY.measure(subjects, broken))
    words = evidence._replace(sets={"test": Dataset({"tokens": IMAGES, "label": IMAGES}, {})})
    with pytest.raises(TypeError, match=r"test holds no images.*\['label', 'tokens'\]"):
        list(PROPERTY.measure(subjects, words))
    with pytest.raises(TypeError, match="holds no network, only its logits"):
        list(PROPERTY.measure(subjects, Evidence(evidence.sets, evidence.logits, [])))
