"""Run a study: `python -m kdib.main --config=configs/lstm_to_transformer.py --workdir=runs/lstm_to_transformer`.

Variants follow a colon and can be combined: `--config=configs/lstm_to_transformer.py:corpus,smoke`. Any field can be
overridden by `--config.train.steps=800`, including fields that the file leaves to their defaults. The same command on
the same workdir resumes where it stopped; on a finished workdir it redraws the report.
"""

import functools
import importlib.util
import inspect
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

from kdib.config import parse
from kdib.overrides import override

flags.DEFINE_string("config", None, "The study's file, with variants after a colon. --config.FIELD=VALUE overrides.")
flags.DEFINE_string("workdir", None, "The study's folder; created if absent.")
FAILED, STOPPED = 2, 143  # 143 is a shell's exit code for a process ended by SIGTERM
CACHE = Path.home() / ".cache" / "kdib" / "xla"


def main(argv: list[str], *, config: dict[str, Any], command: list[str]) -> None:
    """Run the study in the flags' workdir; `command` is the command line to print when the study is stopped."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected: {' '.join(argv[1:])} (write --flag=value)")
    logging.set_verbosity(logging.WARNING)  # Orbax logs a dozen lines per snapshot
    use_compilation_cache()
    from kdib import study
    from kdib.fit import Stopped
    from kdib.snapshots import SnapshotError
    from kdib.workdir import WorkdirError

    try:
        use_devices(parse(config).train.group_size)
        page = study.run(config, Path(flags.FLAGS.workdir))
    except (ValueError, OSError, ModuleNotFoundError, FloatingPointError, SnapshotError, WorkdirError) as error:
        if os.environ.get("KDIB_TRACEBACK"):
            raise
        _fail(f"{error} (KDIB_TRACEBACK=1 shows where)")
    except Stopped:
        print("saved; the same command goes on from here:\n  python -m kdib.main " + shlex.join(command))
        sys.exit(STOPPED)
    print(f"report: {page}")


def use_compilation_cache() -> None:
    """Keep compiled programs on the disk, which makes a second start of the same study seconds faster."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def use_devices(n_runs: int) -> None:
    """Split the CPU into as many devices as runs train at once; must be called before JAX's first computation.

    XLA gives a small network only one core, so runs side by side use the others. No effect on GPU and TPU.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", n_runs)


def read_arguments(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration with its overrides applied, and the other arguments.

    Raises:
      ValueError: in one line, for an absent file, an unknown variant, or an override of an unknown field.
    """
    values = dict(argument.lstrip("-").split("=", 1) for argument in arguments if "=" in argument)
    if not values.get("config") or not values.get("workdir"):
        raise ValueError("needed: --config=FILE.py[:variant,...] and --workdir=FOLDER")
    path, _, variants = values["config"].partition(":")
    config = load_config(path, variants).to_dict()
    others = []
    for argument in arguments:
        name, assigned, text = argument.lstrip("-").partition("=")
        if not name.startswith("config."):
            others.append(argument)
        elif assigned:
            override(config, name.removeprefix("config."), text)
        else:
            raise ValueError(f"{argument}: write {argument}=VALUE")
    return config, others


def load_config(path: str, variants: str = ""):
    """The ConfigDict that a config file's get_config returns."""
    if not Path(path).is_file():
        raise ValueError(f"--config: there is no file {path}")
    expected = f"--config: {path} is not a Python file with get_config(variants: str) -> ConfigDict"
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
        raise ValueError(f"{expected}; it returns {type(config).__name__}")
    return config


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(FAILED)


if __name__ == "__main__":
    config_, others_ = {}, sys.argv[1:]
    if not {"--help", "-h", "--helpfull", "--helpshort"} & set(sys.argv):
        try:
            config_, others_ = read_arguments(sys.argv[1:])
        except ValueError as error_:
            _fail(str(error_))
    app.run(functools.partial(main, config=config_, command=sys.argv[1:]), [sys.argv[0], *others_])
