"""The README's example of two networks runs, and says of a network and its copy in another order that they are one."""

import pathlib
import re

import numpy as np

from kdib import models
from kdib.losses import cross_entropy

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_two_networks_are_compared():
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
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if "interpolation_path" in block]
    exec(example, given)
    assert np.isclose(given["alike"], 1, atol=1e-5) and abs(given["height"]) < 1e-5
    apart = given["interpolation_path"](given["loss_fn"], params_a, params_b, given["alphas"])
    assert given["barrier"](apart, given["alphas"]).above_chord > 0.05  # before the units are in one order
