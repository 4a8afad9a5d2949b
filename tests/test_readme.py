"""The README's examples run as they stand."""

import dataclasses
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import optax

from kdib import models
from kdib.losses import cross_entropy

README = pathlib.Path(__file__).parent.parent / "README.md"


def example(word: str) -> str:
    """The one Python block that contains `word`."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return found


def test_a_student_learns_in_a_loop_of_ones_own():
    """It comes to agree with its teacher, and another temperature does not compile again."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(64, 8)).astype("f")
    taught = images @ rng.normal(size=(8, 3)).astype("f")
    batch = {"image": images, "teacher_logits": taught, "label": taught.argmax(1)}
    params, tx = {"w": jnp.zeros((8, 3))}, optax.adam(0.1)
    given = {"apply": lambda params, x: x @ params["w"], "tx": tx}
    exec(example("def train_step"), given)
    opt_state, spec = tx.init(params), given["spec"]
    for step in range(30):
        params, opt_state, _ = given["train_step"](params, opt_state, batch, spec, step)
    assert ((images @ params["w"]).argmax(1) == taught.argmax(1)).mean() > 0.9
    warmer = spec | {"kl": dataclasses.replace(spec["kl"], hparams={"temperature": jnp.float32(2.0)})}
    own, other = (given["train_step"](params, opt_state, batch, each, 30)[2]["kl"].value for each in (spec, warmer))
    assert given["train_step"]._cache_size() == 1 and own != other


def test_two_networks_are_compared():
    """A network and its copy with the units in another order are said to be one."""
    rng = np.random.default_rng(0)
    batch = {"image": rng.random((40, 4, 4, 1)).astype("f")}
    order = rng.permutation(16)
    layer1 = {"kernel": rng.normal(size=(16, 16)).astype("f"), "bias": rng.normal(size=16).astype("f")}
    head = {"kernel": 5 * rng.normal(size=(16, 3)).astype("f"), "bias": np.zeros(3, "f")}
    params_a = {"layer1": layer1, "head": head}
    params_b = {
        "layer1": {name: leaf[..., order] for name, leaf in layer1.items()},
        "head": head | {"kernel": head["kernel"][order]},
    }
    model = models.build("mlp_tiny", num_classes=3, image_shape=(4, 4, 1), dropout=0.0)

    def outputs(params):
        return model.apply(params, {}, batch, train=False, key=None)[0]

    labels_N = outputs(params_a).logits.argmax(axis=1)  # both are right, and what lies between them need not be
    given = {
        "params_a": params_a,
        "params_b": params_b,
        "hidden_a": outputs(params_a).hidden["penultimate"],
        "hidden_b": outputs(params_b).hidden["penultimate"],
        "alphas": np.linspace(0, 1, 5),
        "loss_fn": lambda params: cross_entropy(outputs(params).logits, labels_N).mean(),
    }
    exec(example("interpolation_path"), given)
    assert np.isclose(given["alike"], 1, atol=1e-5) and abs(given["height"]) < 1e-5
    apart = given["interpolation_path"](given["loss_fn"], params_a, params_b, given["alphas"])
    assert given["barrier"](apart, given["alphas"]).above_chord > 0.05  # before the units are in one order
