"""A network of one's own, named in a config as FILE.py:NAME: made with what it takes, and a mistake is one line."""

import jax
import jax.numpy as jnp
import pytest

from kdib import models
from kdib.models import own

CODE = '''
from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from kdib.models.base import Model, Outputs


class Linear(nn.Module):
    num_classes: int
    image_shape: tuple[int, ...]
    scale: float = 1.0

    @nn.compact
    def __call__(self, batch, *, train):
        flat = batch["image"].reshape(len(batch["image"]), -1)
        return Outputs(self.scale * nn.Dense(self.num_classes)(flat), {})


def constant(num_classes, value):
    """A network of no library at all."""

    def apply(params, model_state, batch, *, train, key=None):
        return Outputs(jnp.tile(params["logits"], (len(batch["image"]), 1)), {}), model_state

    return Model(lambda key, batch: {"params": {"logits": jnp.full(num_classes, value)}}, apply)
'''
SHAPE = (2, 3, 1)
BATCH = {"image": jnp.ones((4, *SHAPE))}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return path


def test_lists_within_lists_become_tuples(file):
    file.write_text(CODE.replace("value):", "value, blocks):"))
    one, two = (
        models.build(f"{file}:constant", num_classes=5, image_shape=SHAPE, value=1.0, blocks=blocks)
        for blocks in ([[8, 2], [16, 1]], ((8, 2), (16, 1)))
    )
    assert one is two


def answer(model):
    params = model.init(jax.random.key(0), BATCH)["params"]
    return model.apply(params, {}, BATCH, train=False)[0].logits


def test_a_class_is_made_with_its_fields_and_with_what_it_takes_of_the_task(file):
    one, two = (models.build(f"{file}:Linear", num_classes=5, image_shape=SHAPE, scale=scale) for scale in (1.0, 2.0))
    assert answer(one).shape == (4, 5)
    assert jnp.allclose(2 * answer(one), answer(two))
    assert one is models.build(
        f"{file}:Linear", num_classes=5, image_shape=list(SHAPE), scale=1.0
    )  # jit knows it again


def test_a_function_may_answer_the_model_itself(file):
    model = models.build(f"{file}:constant", num_classes=3, image_shape=SHAPE, value=0.5)
    assert jnp.all(answer(model) == jnp.full((4, 3), 0.5))


def test_what_a_config_may_set_is_what_nothing_else_gives(file):
    assert models.known_fields(f"{file}:Linear") == ("scale",)
    assert models.known_fields(f"{file}:constant") == ("value",)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("nets.py:Liner", {}, r"no 'Liner' in .*nets\.py; there is: Linear, constant"),
        ("net.py:Linear", {}, r"there is no file '.*net\.py', expected FILE\.py:NAME"),
        (
            "nets.py:Linear",
            {"width": 3},
            r"unknown field 'width' of model .*; it takes: num_classes, image_shape, scale",
        ),
        ("nets.py:Linear", {"vocab_size": 9}, r"needs image_shape, which neither the config nor the task gives"),
        ("nets.py:constant", {}, r"needs value, which"),
    ],
)
def test_a_mistake_is_one_line(file, name, given, message):
    with pytest.raises(ValueError, match=message):
        models.build(f"{file.parent}/{name}", num_classes=5, **given)


def test_a_file_is_run_once(file):
    assert own.load(f"{file}:Linear") is own.load(f"{file}:Linear")
