"""`import kdib.losses` is welcome anywhere: it needs and loads jax and numpy, and what they load."""

import subprocess
import sys

PROGRAM = """
import sys
import jax, jax.numpy, jax.typing, numpy
before = {name.partition(".")[0] for name in sys.modules}
import kdib.losses
new = {name.partition(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)
print(sorted(new))
"""

BLOCKED = """
import sys
for name in "flax orbax absl ml_collections scipy matplotlib chex clu pandas rich optax".split():
    sys.modules[name] = None
import jax.numpy as jnp
from kdib import losses
spec = losses.from_config({"ce": {"fn": "cross_entropy", "weight": 1.0}})
context = {"student": {"logits": jnp.zeros((2, 3))}, "batch": {"label": jnp.zeros(2, int)}}
print(round(float(losses.combine(losses.terms(spec, context, step=0), spec, step=0)), 3))
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_but_jax_and_numpy_is_loaded():
    assert run(PROGRAM) == "['kdib']"


def test_works_where_the_study_is_not_installed():
    assert run(BLOCKED) == "1.099"
