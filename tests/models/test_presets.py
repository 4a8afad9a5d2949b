import subprocess
import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdib.models import PRESETS, build, known_fields
from kdib.models.presets import reads

VOCAB, CLASSES, LENGTH = 1000, 2, 32
SIZES = {"vocab_size": VOCAB, "num_classes": CLASSES, "max_length": LENGTH}
BATCH = {"tokens": jnp.full((3, 8), 5, jnp.int32), "length": jnp.array([8, 3, 1], jnp.int32)}


def lstm_count(e, h, layers):
    recurrent = sum(4 * (d + h + 1) * h for d in [e, *[h] * (layers - 1)])
    return VOCAB * e + recurrent + (h + 1) * CLASSES


def transformer_count(d, layers, *, cls):
    attention, mlp, norms = 4 * (d + 1) * d, (d + 1) * 4 * d + (4 * d + 1) * d, 2 * 2 * d
    return (VOCAB + LENGTH + cls) * d + layers * (attention + mlp + norms) + 2 * d + (d + 1) * CLASSES


def ut_count(d):
    return transformer_count(d, 1, cls=0)  # one block, however often it is applied


COUNTS = {  # at 1,000 words, 2 classes, 32 positions
    "lstm_tiny": (18_146, lstm_count(16, 16, 1)),
    "lstm_small": (130_178, lstm_count(64, 64, 2)),
    "lstm_published": (1_307_138, lstm_count(256, 256, 2)),
    "transformer_tiny": (19_874, transformer_count(16, 1, cls=1)),
    "transformer_small": (166_338, transformer_count(64, 2, cls=1)),
    "transformer_published": (1_322_370, transformer_count(128, 6, cls=1)),
    "transformer_seq_tiny": (19_858, transformer_count(16, 1, cls=0)),
    "transformer_seq_small": (166_274, transformer_count(64, 2, cls=0)),
    "transformer_seq_published": (1_322_242, transformer_count(128, 6, cls=0)),
    "ut_seq_tiny": (19_858, ut_count(16)),
    "ut_seq_small": (116_290, ut_count(64)),
    "ut_seq_published": (1_054_978, ut_count(256)),
    "lm_lstm_published": (17_811_458, lstm_count(1024, 1024, 2)),
    "lm_small_lstm_published": (4_711_426, lstm_count(512, 512, 2)),
    "lm_transformer_published": (19_444_738, transformer_count(512, 6, cls=0)),
    "lm_small_transformer_published": (5_003_778, transformer_count(256, 6, cls=0)),
}


def mlp_count(inputs, widths, *, norms=0):
    return sum((i + 1) * o for i, o in pairwise([inputs, *widths, 10])) + 2 * norms * sum(widths)


def cnn_count(colours, channels):
    """With a bias and with scale and offset of the normalisation."""
    return sum((9 * c + 3) * k for c, k in pairwise([colours, *channels])) + (channels[-1] + 1) * 10


def resnet_count(blocks, *, shortcuts):
    """Convolutions without bias; scale and offset of each normalisation."""
    stem, head = 9 * 3 * 16 + 2 * 16, 65 * 10
    first = [9 * c * k + 2 * k for c, k in ((16, 16), (16, 32), (32, 64))]
    rest = sum((2 * blocks - 1) * (9 * k * k + 2 * k) for k in (16, 32, 64))
    return stem + sum(first) + rest + head + shortcuts * sum(c * k + 2 * k for c, k in ((16, 32), (32, 64)))


MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
IMAGE_COUNTS = {  # 10 classes
    ("mlp_tiny", MNIST): (12_730, mlp_count(784, (16,))),
    ("mlp_small", MNIST): (235_146, mlp_count(784, (256, 128))),
    ("mlp_1", MNIST): (3_672_110, mlp_count(784, (2000, 1000, 100))),
    ("mlp_2", MNIST): (1_494_154, mlp_count(784, (1024, 512, 256, 128))),
    ("mlp_1", CIFAR): (8_248_110, mlp_count(3072, (2000, 1000, 100))),
    ("mlp_2", CIFAR): (3_837_066, mlp_count(3072, (1024, 512, 256, 128))),
    ("mlp_abnar", MNIST): (472_042 + 1344, mlp_count(784, (512, 128, 32), norms=1)),
    ("cnn_tiny", MNIST): (1_466, cnn_count(1, (8, 16))),
    ("cnn_small", MNIST): (24_170, cnn_count(1, (16, 32, 64))),
    ("cnn_1", MNIST): (391_370, cnn_count(1, (32, 64, 128, 256))),
    ("cnn_2", MNIST): (261_066, cnn_count(1, (64, 64, 128, 128))),
    ("cnn_1", CIFAR): (391_946, cnn_count(3, (32, 64, 128, 256))),
    ("cnn_2", CIFAR): (262_218, cnn_count(3, (64, 64, 128, 128))),
    ("cnn_abnar", MNIST): (112_586, 10 * 128 + (9 * 128 + 1) * 64 + (9 * 64 + 1) * 64 + 2 * (128 + 64 + 16) + 17 * 10),
    ("resnet_8", CIFAR): (78_042, resnet_count(1, shortcuts=1)),
    ("resnet_20", CIFAR): (272_474, resnet_count(3, shortcuts=1)),
}
TEXT = [preset for preset in PRESETS if reads(preset) == "tokens"]
IMAGES = [preset for preset in PRESETS if reads(preset) == "images"]
LANGUAGE_COUNTS = {  # the same, predicting the next of the published 10,035 tokens in sentences of up to 51
    "lm_lstm_published": 10_035 * 1024 + 2 * 4 * 2049 * 1024 + 1025 * 1024,
    "lm_small_lstm_published": 10_035 * 512 + 2 * 4 * 1025 * 512 + 513 * 512,
    "lm_transformer_published": (10_035 + 51) * 512 + 6 * (12 * 512**2 + 13 * 512) + 2 * 512,
    "lm_small_transformer_published": (10_035 + 51) * 256 + 6 * (12 * 256**2 + 13 * 256) + 2 * 256,
    "ut_seq_small": (10_035 + 51) * 64 + (12 * 64**2 + 13 * 64) + 2 * 64,
}


def test_every_preset_has_an_expected_count():
    assert set(COUNTS) == set(TEXT)
    assert {preset for preset, _ in IMAGE_COUNTS} == set(IMAGES)


@pytest.mark.parametrize("preset", TEXT)
def test_parameter_count(preset):
    model = build(preset, **SIZES)
    shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    assert set(shapes) == {"params"}
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    literal, formula = COUNTS[preset]
    assert total == literal == formula


@pytest.mark.parametrize(("preset", "image_shape"), IMAGE_COUNTS)
def test_parameter_count_of_image_networks(preset, image_shape):
    model = build(preset, num_classes=10, image_shape=image_shape)
    images = {"image": jnp.zeros((2, *image_shape), jnp.uint8)}
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    literal, formula = IMAGE_COUNTS[preset, image_shape]
    assert total == literal == formula
    if preset == "mlp_abnar":
        weights = {name: layer for name, layer in params.items() if not name.startswith("norm")}
        assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == 472_042


@pytest.mark.parametrize(("blocks", "published"), [(1, 75_290), (3, 269_722)])
def test_resnets_without_their_shortcuts_have_the_count_of_he_et_al(blocks, published):
    assert resnet_count(blocks, shortcuts=0) == published


@pytest.mark.parametrize("preset", LANGUAGE_COUNTS)
def test_parameter_count_of_language_models(preset):
    model = build(preset, vocab_size=10_035, num_classes=None, max_length=51)
    shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == LANGUAGE_COUNTS[preset]


def test_a_bidirectional_language_model_is_refused():
    model = build("transformer_tiny", **{**SIZES, "num_classes": None})
    with pytest.raises(ValueError, match="must be causal"):
        jax.eval_shape(model.init, jax.random.key(0), BATCH)


@pytest.mark.parametrize("preset", TEXT)
def test_shapes_and_dtypes(preset):
    model, fields = build(preset, **SIZES), PRESETS[preset]
    variables = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    outputs, state = jax.eval_shape(lambda p: model.apply(p, {}, BATCH, train=False, key=None), variables["params"])
    assert state == {}
    assert (outputs.logits.shape, outputs.logits.dtype) == ((3, CLASSES), jnp.float32)
    width = fields["hidden_size"] if "hidden_size" in fields else fields["width"]
    blocks = [f"block{i}" for i in range(fields["layers"])]
    assert set(outputs.hidden) == {"embedding", "penultimate", *blocks}
    assert outputs.hidden["penultimate"].shape == (3, width)
    assert outputs.hidden["embedding"].shape == (3, 8, width)
    assert all(outputs.hidden[name].shape == (3, 8, width) for name in blocks[:-1])


def test_overrides_change_fields_and_none_does_not():
    small = build("lstm_small", **SIZES)
    assert build("lstm_small", **SIZES, layers=None, hidden_size=None) is small
    assert build("lstm_small", **SIZES, layers=2) is small
    other = build("lstm_small", **SIZES, layers=1)
    assert other is not small
    assert "layer1" not in jax.eval_shape(other.init, jax.random.key(0), BATCH)["params"]


def test_equal_arguments_do_not_retrace():
    traces = []

    def forward(model, params):
        traces.append(1)
        return model.apply(params, {}, BATCH, train=False, key=None)[0].logits

    jitted = jax.jit(forward, static_argnums=0)
    params = build("lstm_tiny", **SIZES).init(jax.random.key(0), BATCH)["params"]
    for _ in range(2):
        jitted(build("lstm_tiny", **SIZES, layers=1), params)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("lstm_smal", {}, ["'lstm_smal'", "lstm_small", "transformer_seq_published"]),
        ("lstm_small", {"heads": 2}, ["'heads'", "hidden_size", "recurrent_dropout"]),
        ("lstm_small", {"network": "transformer"}, ["'network'", "hidden_size"]),
        ("transformer_small", {"width": 60.0}, ["width", "whole number", "60.0"]),
        ("transformer_small", {"layers": 0}, ["layers", "> 0", "0"]),
        ("transformer_small", {"layers": True}, ["layers", "True"]),
        ("transformer_small", {"dropout": 1.0}, ["dropout", "[0, 1)", "1.0"]),
        ("transformer_small", {"width": 66}, ["heads=4", "width=66"]),
        ("transformer_small", {"max_length": 0}, ["max_length", "got 0"]),
        ("lstm_small", {"max_length": None}, ["'lstm_small'", "reads tokens", "needs max_length"]),
        ("cnn_small", {}, ["'cnn_small'", "reads images", "the task has tokens"]),
    ],
)
def test_errors_are_one_line_that_names_the_choices(preset, overrides, words):
    with pytest.raises(ValueError) as error:
        build(preset, **{**SIZES, **overrides})
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        ("lstm_small", {}, ["'lstm_small'", "reads tokens", "the task has images"]),
        ("cnn_small", {"image_shape": None}, ["'cnn_small'", "needs image_shape"]),
        ("cnn_small", {"image_shape": (28, 28)}, ["image_shape", "(height, width, channels)", "(28, 28)"]),
        ("cnn_small", {"num_classes": None}, ["num_classes", "whole number", "None"]),
        ("cnn_small", {"channels": (16, 0)}, ["channels", "(16, 0)", "> 0"]),
        ("cnn_small", {"channels": 16}, ["channels", "tuple", "got 16"]),
        ("cnn_small", {"channels": ()}, ["channels", "got ()"]),
        ("cnn_small", {"downsampling": "mean"}, ["downsampling", "none, pool, stride", "'mean'"]),
        ("cnn_small", {"downsampling": ("pool",)}, ["downsampling", "('pool',)"]),
        ("cnn_small", {"padding": "reflect"}, ["padding", "zero, circular", "'reflect'"]),
        ("cnn_small", {"widths": (8,)}, ["'widths'", "channels, downsampling"]),
        ("mlp_small", {"widths": (8, 4.0)}, ["widths", "(8, 4.0)"]),
        ("mlp_small", {"batch_norm": 1}, ["batch_norm", "True or False", "1"]),
        ("mlp_small", {"dropout": True}, ["dropout", "[0, 1)", "True"]),
        ("resnet_8", {"blocks": 0}, ["blocks", "> 0"]),
        ("cnn_abnar", {"units": (128, 64)}, ["channels=(128, 64, 64)", "units=(128, 64)", "pool=(1, 2, 2)"]),
        ("cnn_abnar", {"units": (128, 64, 10)}, ["units divide channels", "units=(128, 64, 10)"]),
    ],
)
def test_errors_of_image_networks(preset, changes, words):
    with pytest.raises(ValueError) as error:
        build(preset, **{"num_classes": 10, "image_shape": MNIST, **changes})
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


def test_lists_are_taken_for_tuples():
    listed = build("mlp_small", num_classes=10, image_shape=[28, 28, 1], widths=[8, 4])
    assert listed is build("mlp_small", num_classes=10, image_shape=MNIST, widths=(8, 4))


def test_known_fields():
    assert "hidden_size" in known_fields("lstm_small")
    assert "network" not in known_fields("lstm_small")


def test_published_sizes():
    lstm, transformer = PRESETS["lstm_published"], PRESETS["transformer_published"]
    assert [lstm[k] for k in ("embedding_size", "hidden_size", "layers")] == [256, 256, 2]
    assert [lstm[k] for k in ("input_dropout", "dropout", "recurrent_dropout")] == [0.2, 0.8, 0.8]
    assert [transformer[k] for k in ("width", "layers", "heads")] == [128, 6, 8]
    assert [transformer[k] for k in ("dropout", "embedding_dropout", "attention_dropout")] == [0.4, 0.2, 0.6]
    assert {**transformer, "network": "transformer_seq"} == PRESETS["transformer_seq_published"]
    assert {**transformer, "network": "ut_seq", "width": 256} == PRESETS["ut_seq_published"]


@pytest.mark.parametrize(
    ("name", "width", "rates"),
    [("lm_lstm_published", 1024, (0.2, 0.5, 0.5)), ("lm_small_lstm_published", 512, (0.2, 0.3, 0.3))],
)
def test_published_sizes_of_recurrent_language_models(name, width, rates):
    fields = ("embedding_size", "hidden_size", "layers", "input_dropout", "dropout", "recurrent_dropout")
    assert tuple(PRESETS[name][field] for field in fields) == (width, width, 2, *rates)


@pytest.mark.parametrize(
    ("name", "width", "rates"),
    [("lm_transformer_published", 512, (0.4, 0.2, 0.6)), ("lm_small_transformer_published", 256, (0.2, 0.2, 0.3))],
)
def test_published_sizes_of_transformer_language_models(name, width, rates):
    fields = ("network", "width", "layers", "heads", "dropout", "embedding_dropout", "attention_dropout")
    assert tuple(PRESETS[name][field] for field in fields) == ("transformer_seq", width, 6, 8, *rates)


def test_names_are_known_without_jax():
    code = "import sys, kdib.models; kdib.models.known_fields('lstm_small'); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("preset", ["lstm_tiny", "transformer_tiny"])  # _seq differs by its mask alone
def test_stacked_parameters_equal_a_loop_and_train_inside_scan(preset):
    dropouts = {name: 0.1 for name in known_fields(preset) if name.endswith("dropout")}
    model = build(preset, **SIZES, **dropouts)
    runs = 3
    rng = np.random.default_rng(0)
    batches = {
        "tokens": jnp.asarray(rng.integers(3, VOCAB, (runs, 4, 8)), jnp.int32),
        "length": jnp.asarray(rng.integers(1, 9, (runs, 4)), jnp.int32),
    }
    keys = jax.random.split(jax.random.key(1), runs)
    stacked = jax.jit(jax.vmap(lambda key: model.init(key, BATCH)))(keys)["params"]

    def train(params, batch, key):
        def loss(params, key):
            return jnp.mean(model.apply(params, {}, batch, train=True, key=key)[0].logits ** 2)

        def step(params, key):
            grads = jax.grad(loss)(params, key)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), None

        return jax.lax.scan(step, params, jax.random.split(key, 3))[0]

    together = jax.jit(jax.vmap(train))(stacked, batches, keys)
    train = jax.jit(train)
    for r in range(runs):
        before, batch = jax.tree.map(lambda x, r=r: x[r], (stacked, batches))
        alone = train(before, batch, keys[r])
        jax.tree.map(lambda x, y, r=r: np.testing.assert_allclose(x[r], y, atol=1e-6), together, alone)
        assert not np.allclose(alone["head"]["kernel"], before["head"]["kernel"], atol=1e-5)
