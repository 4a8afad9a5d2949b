"""Any field of a study may be overridden on the command line, also one that its config leaves to the default."""

import pathlib
import re

import pytest

from kdib.config import parse
from kdib.main import load_config, read_arguments
from kdib.overrides import override

CONFIG = str(pathlib.Path(__file__).parent.parent / "configs" / "leveled_kd.py")


@pytest.fixture
def config():
    return load_config(CONFIG, "features,smoke").to_dict()


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.steps", "7", 7),
        ("train.buckets", "(4, 8)", (4, 8)),  # declared
        ("train.learning_rate", "1", 1.0),
        ("title", "2026", "2026"),  # text stays text
        ("fits.distilled.budget", "2.5", 2.5),
        ("fits.distilled.teacher_steps", "(50, 100)", (50, 100)),
        ("fits.alone.augment.name", "shift", "shift"),  # in a mapping that is not there yet
        ("fits.distilled.shuffle", "true", True),
        ("models.cnn.downsampling", "pool", "pool"),
        ("train.schedule.final", "0.1", 0.1),
        ("losses.type1.fm.projector", "linear", "linear"),
        ("losses.kd.fm.weight", "0.5", 0.5),  # declared as None: the term is dropped
        ("task.data_seed", "-3", -3),
    ],
)
def test_a_field_is_set(config, path, text, value):
    override(config, path, text)
    node = config
    for part in path.split("."):
        node = node[part]
    assert type(node) in (type(value), int) and node == value
    parse(config)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("train.stps", "--config.train.stps: 'stps' is unknown. Did you mean 'steps'? Known: steps, batch_size"),
        ("fits.distilled.agument.name", "'agument' is unknown. Did you mean 'augment'? Known: model, loss,"),
        ("fits.distilld.budget", "'distilld' is unknown. Did you mean 'distilled'? Known: teacher, peer"),
        ("losses.kd.kll.weight", "'kll' is unknown. Did you mean 'kl'? Known: ce, kl, fm"),
        ("seeds.more", "--config.seeds.more: --config.seeds has no fields; it is 2"),
        ("bogus", "'bogus' is unknown. Known: title, "),
    ],
)
def test_what_no_config_has_is_refused_with_what_there_is(config, path, message):
    before = load_config(CONFIG, "features,smoke").to_dict()
    with pytest.raises(ValueError, match=re.escape(message)):
        override(config, path, "1")
    assert config == before


def test_the_command_line_is_a_configuration_and_the_rest():
    line = [
        f"--config={CONFIG}:smoke",
        "--config.seeds=1",
        "--workdir=w",
        "-config.models.cnn.padding=circular",
        "-v=1",
    ]
    config, others = read_arguments(line)
    assert (config["seeds"], config["models"]["cnn"]["padding"]) == (1, "circular")
    assert others == [line[0], "--workdir=w", "-v=1"]
    with pytest.raises(ValueError, match=r"--config.seeds: write --config.seeds=VALUE"):
        read_arguments([*line, "--config.seeds"])
    with pytest.raises(ValueError, match="needed: --config=FILE"):
        read_arguments(["--workdir=w"])
