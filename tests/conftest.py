"""Four CPU devices, strict rank promotion, and the folder of real data, for every test."""

import os
import pathlib
import shutil

from xla_flags import COMPILE_FAST, DEVICES

os.environ["XLA_FLAGS"] = f"{COMPILE_FAST} {os.environ.get('XLA_FLAGS', '')} {DEVICES}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Workers, the processes they start and the next run share what was compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def strict_dtypes():
    """Dtype promotion that raises; as a fixture, since optax's adam and flax's pooling need it off."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data, or a skip that says where it was looked for."""
    folder = pathlib.Path(os.environ.get("KDIB_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set KDIB_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished study of two seeds; tests copy it before they change anything."""
    from miniature import tiny

    from kdib import study

    workdir = tmp_path_factory.mktemp("study") / "run"
    page = study.run(tiny(), workdir)
    assert page.is_file()
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    """A finished study to change."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def no_page(request, monkeypatch, finished):
    """The page takes most of a miniature study's time; `finished` and the tests that read it draw it."""
    from kdib import study

    if "draws" not in request.fixturenames:
        monkeypatch.setattr(study.report, "write", lambda workdir: workdir / "report" / "index.html")


@pytest.fixture
def draws():
    """Asks for the real page."""


def pytest_collection_modifyitems(items):
    """The slowest files first, so that no worker is left with one of them at the end."""
    slow = ("test_processes.py", "test_teaching.py", "test_losses_contract.py", "test_study.py", "test_transformer.py")
    items.sort(key=lambda item: slow.index(item.path.name) if item.path.name in slow else len(slow))
