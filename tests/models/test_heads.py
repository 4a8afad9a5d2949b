"""Projectors: the shape they give, what they learn, that they stay out of the student, and their errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdib import losses
from kdib.models.base import Model, Outputs, split
from kdib.models.heads import projector
from kdib.step import Architecture, init_state, model_variables, train_step

N = 4
RNG = np.random.default_rng(0)
PATHS = ("student.hidden.s", "teacher.hidden.t")
MAPS = ((N, 3, 4, 2), (N, 3, 4, 5))
KEY = jax.random.key(0)


def context(student, teacher):
    s, t = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in (student, teacher))
    logits = jnp.zeros((N, 2))
    return {"student": Outputs(logits, {"s": s}), "teacher": Outputs(logits, {"t": t}), "batch": {}}


def run(head, seen, *, train=False):
    params, model_state = split(head.init(KEY, seen))
    return params, *jax.jit(functools.partial(head.apply, train=train))(params, model_state, seen, key=KEY)


def test_equal_arguments_give_the_same_object():
    assert projector("linear", *PATHS) is projector("linear", *PATHS)
    assert projector("linear", *PATHS) is not projector("conv", *PATHS)


@pytest.mark.parametrize(("student", "teacher"), [((N, 3), (N, 7)), MAPS])
def test_linear_is_a_product_with_the_last_axis(student, teacher):
    seen = context(student, teacher)
    params, outputs, state = run(projector("linear", *PATHS), seen)
    assert outputs.logits.shape == teacher and outputs.hidden == {} and state == {}
    kernel, bias = (np.asarray(params["linear"][name]) for name in ("kernel", "bias"))
    assert kernel.shape == (student[-1], teacher[-1])
    np.testing.assert_allclose(outputs.logits, np.asarray(seen["student"].hidden["s"]) @ kernel + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher"), [((N, 3), (N, 2, 4, 5)), ((N, 4, 4, 2), (N, 7)), ((N, 4, 2), (N, 8, 2))]
)
def test_linear_between_other_shapes_is_a_product_with_all_values(student, teacher):
    seen = context(student, teacher)
    params, outputs, _ = run(projector("linear", *PATHS), seen)
    kernel, bias = (np.asarray(params["linear"][name]) for name in ("kernel", "bias"))
    assert kernel.shape == (np.prod(student[1:]), np.prod(teacher[1:]))
    expected = np.asarray(seen["student"].hidden["s"]).reshape(N, -1) @ kernel + bias
    np.testing.assert_allclose(outputs.logits, expected.reshape(teacher), atol=1e-5)


def test_conv_is_a_convolution_with_batch_norm_and_relu():
    seen = context(*MAPS)
    head = projector("conv", *PATHS)
    params, outputs, state = run(head, seen, train=True)
    x = seen["student"].hidden["s"]
    y = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = np.asarray(y)
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    expected = np.maximum((y - mean) / np.sqrt(var + 1e-5), 0)
    assert outputs.logits.shape == MAPS[1]
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-4)
    np.testing.assert_allclose(state["batch_stats"]["norm"]["mean"], 0.1 * mean, atol=1e-5)
    _, quiet, kept = run(head, seen, train=False)
    np.testing.assert_allclose(kept["batch_stats"]["norm"]["mean"], 0)
    assert not np.allclose(quiet.logits, outputs.logits)


def test_no_gradient_reaches_the_teacher_and_one_reaches_the_student():
    head = projector("linear", *PATHS)
    seen = context((N, 3), (N, 7))
    params, model_state = split(head.init(KEY, seen))

    @jax.jit
    @functools.partial(jax.grad, allow_int=True)
    def grad(seen):
        return head.apply(params, model_state, seen, train=True, key=None)[0].logits.sum()

    found = grad(seen)
    assert np.any(np.asarray(found["student"].hidden["s"]) != 0)
    np.testing.assert_array_equal(found["teacher"].hidden["t"], 0)


def test_runs_draw_side_by_side_as_alone():
    head = projector("conv", *PATHS)
    seen = context(*MAPS)
    keys = jax.random.split(KEY, 2)
    together = jax.vmap(lambda key: head.init(key, seen))(keys)
    for number, key in enumerate(keys):
        alone = head.init(key, seen)
        jax.tree.map(lambda a, b, n=number: np.testing.assert_allclose(a[n], b, rtol=1e-5), together, alone)


ERRORS = {
    "vectors for conv": ("conv", (N, 3), (N, 7), r"needs maps \[N, H, W, C\], got .*\[4, 3\].*\[4, 7\]; for vectors"),
    "sizes of maps": ("conv", (N, 4, 4, 2), (N, 2, 2, 2), r"student.hidden.s \[4, 4, 4, 2\] and .*t \[4, 2, 2, 2\]"),
    "numbers": ("linear", (N,), (N,), r"of the same examples, got .*\[4\].*\[4\]"),
    "other examples": ("linear", (N, 3), (N + 1, 2, 2, 3), r"of the same examples, got .*\[4, 3\].*\[5, 2, 2, 3\]"),
}


@pytest.mark.parametrize(("kind", "student", "teacher", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_shapes_that_do_not_fit_are_both_shown(kind, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        projector(kind, *PATHS).init(KEY, context(student, teacher))


def test_wrong_names_list_what_there_is():
    with pytest.raises(ValueError, match="unknown projector 'mlp'; known: linear, conv"):
        projector("mlp", *PATHS)
    wrong = projector("linear", "student.hidden.pool", PATHS[1])
    with pytest.raises(ValueError, match=r"no 'pool' in 'hidden' .*there is: s \[4, 3\]"):
        wrong.init(KEY, context((N, 3), (N, 7)))


def net(width):
    def init(key, batch):
        return {"params": {"w": jax.random.normal(key, (3, width)), "v": jnp.ones((width, 2))}}

    def apply(params, model_state, batch, *, train, key=None):
        hidden = batch["x"] @ params["w"]
        return Outputs(hidden @ params["v"], {"s": hidden, "t": hidden}), model_state

    return Model(init, apply)


def test_a_hint_through_a_projector_is_learned_by_student_and_head():
    layers = {"inputs": PATHS, "projector": "linear"}
    config = {"fm": {"fn": "hint", "weight": 1.0, **layers}}
    heads = tuple((name, projector(*head)) for name, head in losses.projectors(config).items())
    student, teacher = net(4), net(6)
    arch = Architecture(student, teacher, heads, optax.sgd(0.02))
    batch = {"x": jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32), "label": jnp.zeros(16, jnp.int32)}
    variables = teacher.init(jax.random.key(7), batch)
    state = init_state(KEY, jax.random.key(1), batch, variables, arch=arch)
    start, values = state, []
    step = jax.jit(functools.partial(train_step, arch=arch))
    for _ in range(200):
        state, metrics = step(state, batch, variables, losses.from_config(config))
        values.append(float(metrics["fm"].value))
    assert values[-1] < 0.05 * values[0]  # the rank of the data is 3, which four units hold
    for part in (("model", "w"), ("heads", "fm")):
        before, after = (s.params[part[0]][part[1]] for s in (start, state))
        assert not np.allclose(jax.tree.leaves(before)[-1], jax.tree.leaves(after)[-1])
    assert set(model_variables(state)["params"]) == {"w", "v"}
