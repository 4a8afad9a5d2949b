"""The rules of the house that no single module can hold: who may import whom, and what stays out of the wheel."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MODULES = sorted((ROOT / "kdib").rglob("*.py"))

# A room may import only rooms further left; rooms in one string stand side by side.
ORDER = [
    "ranges fields",
    "losses records",
    "models.base tasks.base stats trees snapshots config",
    "tasks.prepared tasks.columns overrides",
    "models optimizer step population feed progress logbook properties tasks",
    "workdir answers fit runs estimands verdict selection",
    "teaching report",
    "checks measuring",
    "study",
    "main",
]
ONLY_IN = {
    "flax": "kdib.models",
    "orbax": "kdib.snapshots",
    "grain": "kdib.feed",
    "tensorflow_datasets": "kdib.tasks",
    "matplotlib": "kdib.report",
    "jinja2": "kdib.report",
}


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.split(".")[0] == "kdib":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(module):
    """The position of a kdib module in ORDER; the longest matching room wins. None for `kdib` itself."""
    name = module.removeprefix("kdib").removeprefix(".")
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        for position, rooms in enumerate(ORDER):
            if ".".join(parts[:length]) in rooms.split():
                return position
    return None


def test_every_module_has_its_place_in_the_order():
    assert [p.name for p in MODULES if rank(name_of(p)) is None and name_of(p) != "kdib"] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    mine = rank(name_of(path))
    for imported in imports_of(path):
        if imported.split(".")[0] != "kdib" or rank(imported) is None or mine is None:
            continue
        same_room = imported.split(".")[1] == name_of(path).split(".")[1]
        assert rank(imported) < mine or same_room or rank(imported) == mine, f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_each_library_stays_in_its_room(path):
    for imported in imports_of(path):
        library = imported.split(".")[0]
        assert library not in {"tensorflow", "torch", "pickle"}
        assert name_of(path).startswith(ONLY_IN.get(library, "")), f"{name_of(path)} imports {imported}"


def test_configs_import_nothing_of_kdib():
    for path in (ROOT / "configs").glob("*.py"):
        assert not [name for name in imports_of(path) if name.split(".")[0] == "kdib"], path


def output_of(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_losses_load_jax_optax_and_numpy_only():
    loaded = output_of("import sys, kdib.losses; print(*sys.modules)").split()
    assert not {"flax", "orbax", "absl.flags", "ml_collections", "scipy.stats", "matplotlib", "rich"} & set(loaded)
    assert "tensorflow_datasets" not in loaded


def test_a_study_of_files_does_not_load_tfds():
    loaded = output_of("import sys, kdib.tasks.agreement.task; print(*sys.modules)").split()
    assert not {"tensorflow_datasets", "pyarrow"} & set(loaded)


def test_a_study_without_windows_does_not_load_grain():
    assert "grain" not in output_of("import sys, kdib.study; print(*sys.modules)").split()


def test_help_and_config_errors_answer_without_loading_jax():
    assert "jax" not in output_of("import sys, kdib.main; print(*sys.modules)").split()
