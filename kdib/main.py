"""Runs a study: `python -m kdib.main --config=configs/lstm_to_transformer.py --workdir=runs/lstm_to_transformer`.

Variants follow a colon and combine: `--config=configs/lstm_to_transformer.py:corpus,smoke`. Fields are overridden by
`--config.train.steps=800`. The same command on the same workdir goes on where it stopped; on a finished one it redraws
the report.
"""

import importlib.util
import inspect
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from kdib.config import parse
from kdib.fields import known

_CONFIG = config_flags.DEFINE_config_file("config", None, "The study's file, with variants after a colon.")
flags.DEFINE_string("workdir", None, "Where the study lives; made if absent.")
FAILED, STOPPED = 2, 143  # 143 is what a shell reports of a process that SIGTERM ended
CACHE = Path.home() / ".cache" / "kdib" / "xla"


def main(argv: list[str]) -> None:
    """Runs the study of the flags."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected: {' '.join(argv[1:])} (write --flag=value)")
    logging.set_verbosity(logging.WARNING)  # Orbax says a dozen lines a snapshot
    use_compilation_cache()
    config = _CONFIG.value.to_dict()
    from kdib import study
    from kdib.fit import Stopped
    from kdib.snapshots import SnapshotError
    from kdib.workdir import WorkdirError

    try:
        use_devices(parse(config).train.group_size)
        page = study.run(config, Path(flags.FLAGS.workdir))
    except (ValueError, OSError, ModuleNotFoundError, SnapshotError, WorkdirError) as error:
        if os.environ.get("KDIB_TRACEBACK"):
            raise
        _fail(f"{error} (KDIB_TRACEBACK=1 shows where)")
    except Stopped:
        print("saved; the same command goes on from here:\n  python -m kdib.main " + shlex.join(sys.argv[1:]))
        sys.exit(STOPPED)
    print(f"report: {page}")


def use_compilation_cache() -> None:
    """Compiled programs outlive the process: a second start of the same study is seconds faster."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def use_devices(n_runs: int) -> None:
    """Makes the CPU as many devices as runs train at once; must come before JAX's first computation.

    XLA gives a small network one core only, so runs side by side take up the others. Without effect on GPU and TPU.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", n_runs)


def check_arguments(arguments: list[str]) -> None:
    """Names that the flags library would answer with a traceback, answered in one line.

    Raises:
      ValueError: for an absent file, an unknown variant, or an override of a field that the config does not have.
    """
    values = dict(argument.lstrip("-").split("=", 1) for argument in arguments if "=" in argument)
    if not values.get("config") or not values.get("workdir"):
        raise ValueError("needed: --config=FILE.py[:variant,...] and --workdir=FOLDER")
    path, _, variants = values["config"].partition(":")
    config = load_config(path, variants).to_dict()
    for name in values:
        if name.startswith("config."):
            _check_field(config, name)


def _check_field(config: dict, name: str) -> None:
    """Walks down `config.a.b`; the first part that is not there is answered with what is."""
    node, path = config, "--config"
    for part in name.split(".")[1:]:
        if not isinstance(node, dict):
            raise ValueError(f"--{name}: {path} has no fields, it is {node!r}")
        known(f"--{name}", part, node)
        node, path = node[part], f"{path}.{part}"


def load_config(path: str, variants: str = ""):
    """The ConfigDict that a config file's get_config answers."""
    if not Path(path).is_file():
        raise ValueError(f"--config: there is no file {path}")
    expected = f"--config: {path} is no Python file with get_config(variants: str) -> ConfigDict"
    spec = importlib.util.spec_from_file_location("study_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(expected)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config: Any = getattr(module, "get_config", None)
    try:
        inspect.signature(get_config).bind(variants)
    except TypeError:
        raise ValueError(expected) from None
    config = get_config(variants)
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{expected}; it answers {type(config).__name__}")
    return config


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(FAILED)


if __name__ == "__main__":
    if not {"--help", "-h", "--helpfull", "--helpshort"} & set(sys.argv):
        try:
            check_arguments(sys.argv[1:])
        except ValueError as error_:
            _fail(str(error_))
    app.run(main)
