"""The task on pictures: disjoint sets, what is made of them, and where files are looked for."""

import json
import socket
import sys
import time

import jax
import numpy as np
import pytest
from test_idx import IMAGES, write
from test_moved import sliced

from kdib.fields import from_mapping
from kdib.tasks.images import files, idx, moved, task
from kdib.tasks.images.corruptions import corrupt
from kdib.tasks.images.digits import digits
from kdib.tasks.images.sets import CLOTHES
from kdib.tasks.images.task import DigitsSettings, MnistSettings

SMALL = {"n_train": 700, "n_validation": 60, "n_test": 50}


@pytest.fixture(scope="module")
def small():
    return task.build(DigitsSettings(**SMALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("idx"))


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """A machine without any data."""
    import tensorflow_datasets as tfds

    monkeypatch.delenv(files.VARIABLE, raising=False)
    monkeypatch.setattr(idx, "DEBIAN", {"fashion_mnist": tmp_path / "debian"})
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "default"))
    return tmp_path


def pictures(data):
    return {image.tobytes() for image in data.inputs["image"]}


# ---- what a task is


def test_the_sets_and_their_arrays(small):
    assert small.name == "images/digits" and small.num_classes == 10
    assert list(small.tests) == ["test", "translated", "scaled"] and list(small.watched) == ["shifted"]
    assert small.shapes == {"image_shape": (28, 28, 1)}
    everything = {"train": small.train, "validation": small.validation, **small.tests, **small.watched}
    sizes = {"train": 700, "validation": 60, "test": 50, "translated": 50, "scaled": 50, "shifted": 60}
    for name, data in everything.items():
        n = sizes[name]
        assert {key: (array.shape, array.dtype) for key, array in data.inputs.items()} == {
            "image": ((n, 28, 28, 1), np.uint8),
            "label": ((n,), np.int32),
            "id": ((n,), np.int32),
        }
        np.testing.assert_array_equal(data.inputs["id"], np.arange(n))
        assert data.groups == {} and data.size == n


def test_the_digits_are_those_of_the_generator(small):
    for name, data in {"train": small.train, "validation": small.validation, "test": small.tests["test"]}.items():
        image_NxHxWxC, label_N = digits(0, data.size, name)
        np.testing.assert_array_equal(data.inputs["image"], image_NxHxWxC)
        np.testing.assert_array_equal(data.inputs["label"], label_N)


def test_what_is_made_of_the_sets_keeps_their_labels(small):
    test, validation = small.tests["test"].inputs, small.validation.inputs
    for name in ("translated", "scaled"):
        np.testing.assert_array_equal(small.tests[name].inputs["label"], test["label"])
    np.testing.assert_array_equal(small.tests["translated"].inputs["image"], moved.translated(test["image"], 0)[0])
    np.testing.assert_array_equal(small.tests["scaled"].inputs["image"], moved.scaled(test["image"]))
    shifted, offset_Nx2 = small.watched["shifted"].inputs, moved.shifted(validation["image"], 0)[1]
    np.testing.assert_array_equal(shifted["label"], validation["label"])
    for found, image, (dy, dx) in zip(shifted["image"], validation["image"], offset_Nx2, strict=True):
        np.testing.assert_array_equal(found, sliced(image, dy, dx))


def test_the_same_settings_give_the_same_task(small):
    again, other = (task.build(DigitsSettings(**SMALL, data_seed=seed)) for seed in (0, 1))
    assert again.facts == small.facts and again.input_digest == small.input_digest == other.input_digest
    for name, data in small.tests.items():
        np.testing.assert_array_equal(again.tests[name].inputs["image"], data.inputs["image"])
    assert not pictures(other.train) & pictures(small.train)
    assert other.facts["training_images_sha256"] != small.facts["training_images_sha256"]


def test_facts_are_json_and_count_every_set(small):
    facts = json.loads(json.dumps(small.facts))
    assert facts == small.facts  # lists, not tuples: what is read back is what was written
    assert facts["image_shape"] == [28, 28, 1] and facts["classes"] == list("0123456789")
    assert (
        facts["settings"] == {"data_seed": 0, "corruptions": {}, "views": {}, **SMALL} and facts["source"] == "digits"
    )
    assert list(facts["sets"]) == ["train", "validation", *small.tests, *small.watched]
    everyone = [small.train, small.validation, *small.tests.values(), *small.watched.values()]
    for data, of_set in zip(everyone, facts["sets"].values(), strict=True):
        assert of_set["size"] == data.size == sum(of_set["labels"].values())
        assert of_set["labels"]["3"] == np.sum(data.inputs["label"] == 3)
    assert all(facts["made"][name].startswith("MNIST-C-style") for name in ("translated", "scaled"))
    assert "validation" not in facts["made"]  # nothing is carved from generated digits


def test_corruptions_at_ones_own_strength_are_test_sets(small):
    settings = {
        "rotated_not_at_all": {"name": "rotate", "radians": 0.0},
        "rotated_a_little": {"name": "rotate", "radians": 0.1},
        "rotated": {"name": "rotate"},
    }
    built = task.build(DigitsSettings(**SMALL, corruptions=settings))
    test = small.tests["test"].inputs
    image = {name: built.tests[name].inputs["image"] for name in settings}
    assert list(built.tests) == ["test", "translated", "scaled", *settings]
    np.testing.assert_array_equal(image["rotated_not_at_all"], test["image"])
    moved_by = [np.abs(image[name].astype(int) - test["image"]).mean() for name in settings]
    assert 0 == moved_by[0] < moved_by[1] < moved_by[2]
    np.testing.assert_array_equal(image["rotated"], corrupt("rotate", jax.random.key(0), test["image"]))
    np.testing.assert_array_equal(built.tests["rotated"].inputs["label"], test["label"])
    assert built.facts["made"]["rotated_a_little"] == "MNIST-C-style: test, rotate (radians=0.1)"
    np.testing.assert_array_equal(built.train.inputs["image"], small.train.inputs["image"])


def test_augmented_views_are_test_sets_too(small):
    settings = {
        "as_it_was": {"name": "shift_subpixel", "distance": 0.0},
        "half_a_pixel": {"name": "shift_subpixel", "distance": 0.5},
        "jittered": {"name": "colour_jitter", "brightness": 0.4, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    }
    built, again = (task.build(DigitsSettings(**SMALL, views=settings)) for _ in range(2))
    test = small.tests["test"].inputs["image"]
    image = {name: built.tests[name].inputs["image"] for name in settings}
    np.testing.assert_array_equal(image["as_it_was"], test)
    assert all((image[name] != test).any() and image[name].dtype == np.uint8 for name in ("half_a_pixel", "jittered"))
    brighter_N = image["jittered"].sum((1, 2, 3)) / test.sum((1, 2, 3))
    assert 0.59 < brighter_N.min() < 0.75 and brighter_N.std() > 0.05  # each image has a draw of its own
    for name in settings:
        np.testing.assert_array_equal(again.tests[name].inputs["image"], image[name])
    assert built.facts["made"]["half_a_pixel"] == "test, augmented: shift_subpixel (distance=0.5)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corruptions": {"scaled": {"name": "scale"}}}, r"task.corruptions.scaled: there is a set 'scaled' already"),
        ({"corruptions": {"test": {"name": "scale"}}}, r"there is a set 'test' already"),
        (
            {"corruptions": {"a": {"name": "fog"}}, "views": {"a": {"name": "flip"}}},
            r"views.a: there is a set 'a' already",
        ),
        (
            {"corruptions": {"a": {"name": "rotation"}}},
            r"config.task.corruptions.a.name: 'rotation' is unknown.*rotate",
        ),
        (
            {"corruptions": {"a": "rotate"}},
            r"corruptions.a: expected a name and \{'name': ..., knobs\}, got 'a': 'rotate'",
        ),
        ({"views": {3: {"name": "flip"}}}, r"config.task.views.3: expected a name .*got 3"),
        ({"corruptions": {"a": {"radians": 1.0}}}, r"config.task.corruptions.a.name: '' is unknown"),
        ({"corruptions": {"a": {"name": "rotate", "angle": 1.0}}}, r"corruptions.a: .*'angle' is unknown.*radians"),
        ({"corruptions": {"a": {"name": "scale", "factor": 0.0}}}, r"corruptions.a: .*factor must be a number > 0"),
        ({"views": {"a": {"name": "mixup"}}}, r"config.task.views.a.name: 'mixup' is unknown.*colour_jitter"),
        ({"views": {"a": {"name": "rotate", "radians": 1.0}}}, r"views.a: .*'radians' is unknown.*degrees"),
    ],
)
def test_a_probe_that_cannot_be_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        task.build(DigitsSettings(**SMALL, **settings))


# ---- files


def test_validation_is_carved_from_training_and_shares_nothing_with_it(folder):
    built = task.build(MnistSettings(data_dir=str(folder), n_validation=8))
    train, validation, test = pictures(built.train), pictures(built.validation), pictures(built.tests["test"])
    assert (len(train), len(validation), len(test)) == (22, 8, 20)
    assert train | validation == {image.tobytes() for image in IMAGES["train"]} and not train & validation
    assert test == {image.tobytes() for image in IMAGES["t10k"]}
    of_image = {image.tobytes(): i % 10 for i, image in enumerate(IMAGES["train"])}
    for data in (built.train, built.validation):
        for image, label in zip(data.inputs["image"], data.inputs["label"], strict=True):
            assert of_image[image.tobytes()] == label


def test_the_seed_chooses_and_sizes_cap(folder):
    one, same, other, fewer = (
        task.build(MnistSettings(data_dir=str(folder), n_validation=8, **change))
        for change in ({}, {}, {"seed": 1}, {"n_train": 5, "n_test": 6})
    )
    assert one.facts == same.facts and pictures(one.validation) == pictures(same.validation)
    assert pictures(one.validation) != pictures(other.validation)
    assert fewer.train.size == 5 and pictures(fewer.train) < pictures(one.train)
    assert pictures(fewer.validation) == pictures(one.validation)
    assert fewer.tests["test"].size == 6 == fewer.tests["scaled"].size
    assert one.facts["origin"] == f"IDX files in {folder}" and one.facts["made"]["validation"].startswith("carved")


def test_what_inputs_mean_depends_on_the_source(folder, small):
    mnist, fashion = (
        task.build(task.SOURCES[name](data_dir=str(folder), n_validation=8)) for name in ("mnist", "fashion_mnist")
    )
    assert len({small.input_digest, mnist.input_digest, fashion.input_digest}) == 3
    assert fashion.name == "images/fashion_mnist" and fashion.facts["classes"] == list(CLOTHES)


def test_real_mnist(data_dir):
    if not (data_dir / "mnist").is_dir():
        pytest.skip(f"no MNIST at {data_dir / 'mnist'}")
    built = task.build(MnistSettings(data_dir=str(data_dir), n_train=1000, n_test=500))
    assert (built.train.size, built.validation.size, built.tests["test"].size) == (1000, 5000, 500)
    assert not pictures(built.train) & pictures(built.validation)


@pytest.mark.parametrize("name", task.SOURCES)
def test_every_source_is_configured_by_its_own_settings(name):
    settings = from_mapping(task.SOURCES[name], {"n_validation": 7}, "config.task")
    assert settings.source == name and settings.setup == "classification" and settings.n_validation == 7
    with pytest.raises(ValueError, match=r"config\.task\.source: 'source' is unknown"):
        from_mapping(task.SOURCES[name], {"source": "x"}, "config.task")


# ---- where files are looked for


def test_the_folders_in_their_order(folder, nothing, monkeypatch):
    debian, variable = write(nothing / "debian"), write(nothing / "variable" / "fashion_mnist")
    assert files.read("fashion_mnist", str(folder)).origin.endswith(str(folder))
    assert files.read("fashion_mnist", "").origin.endswith(str(debian))
    monkeypatch.setenv(files.VARIABLE, str(variable.parent))
    assert files.read("fashion_mnist", "").origin.endswith(str(variable))
    (variable / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match=str(variable)):  # damage is told, and nothing takes its place
        files.read("fashion_mnist", "")
    with pytest.raises(FileNotFoundError, match=r"looked in /absent; TFDS has none prepared in /absent\)"):
        files.read("fashion_mnist", "/absent")  # nor does another folder take that of a named one


def test_a_prepared_set_is_taken_where_there_are_no_idx_files(folder, nothing, monkeypatch):
    from kdib.tasks.images import tfds

    tfds.prepare("mnist", folder, nothing / "sets")
    assert files.read("mnist", str(nothing / "sets")).origin.startswith("TFDS, ")
    monkeypatch.setenv(files.VARIABLE, str(nothing / "sets"))
    assert files.read("mnist", "").origin.startswith("TFDS, ")
    monkeypatch.delenv(files.VARIABLE)
    (nothing / "sets").rename(nothing / "default")
    assert files.read("mnist", "").origin == f"TFDS, {nothing / 'default' / 'mnist' / '3.0.1'}"


@pytest.mark.parametrize("name", files.TO_BE_HAD)
@pytest.mark.parametrize("data_dir", ["", "absent"])
def test_missing_data_fail_at_once_and_name_the_remedies(nothing, monkeypatch, name, data_dir):
    import tensorflow_datasets as tfds

    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "_is_gcs_disabled", False)  # as if TFDS used its bucket
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "exists", refuse)
    start, where = time.monotonic(), str(nothing / data_dir) if data_dir else ""
    with pytest.raises(FileNotFoundError) as caught:
        task.build(task.SOURCES[name](data_dir=where))
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert message.startswith(f"config.task.source={name!r}: found no such set (") and "\n" not in message
    assert (f"looked in {where}" if where else "neither data_dir nor $KDIB_DATA_DIR is set") in message
    assert "config.task.data_dir" in message and files.TO_BE_HAD[name] in message
    assert "config.task.source='digits', which needs no file" in message
    assert list(nothing.iterdir()) == []


def test_without_tfds_the_extra_is_named(nothing, monkeypatch):
    monkeypatch.delitem(sys.modules, "kdib.tasks.images.tfds", raising=False)
    monkeypatch.delattr(sys.modules["kdib.tasks.images"], "tfds", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(FileNotFoundError, match=r"tensorflow_datasets.*pip install 'kdib\[tfds\]'\)\. Give its folder"):
        files.read("mnist", str(nothing))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_validation": 30}, r"config\.task\.n_validation must be a whole number from 1 to 29.*, got 30"),
        ({"n_validation": 0}, r"config\.task\.n_validation must be a whole number from 1 to 29.*, got 0"),
        ({"n_validation": 8, "n_train": 23}, r"config\.task\.n_train must be a whole number from 0 to 22.*, got 23"),
        ({"n_validation": 8, "n_test": 21}, r"config\.task\.n_test must be a whole number from 0 to 20.*, got 21"),
        ({"seed": -1}, r"config\.task\.seed must be a whole number from 0 to .*, got -1"),
    ],
)
def test_more_than_there_is_is_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        task.build(MnistSettings(data_dir=str(folder), **settings))


@pytest.mark.parametrize("field", ["n_train", "n_validation", "n_test"])
def test_digits_need_a_size(field):
    with pytest.raises(ValueError, match=rf"config\.task\.{field} must be a whole number from 1 to .*, got 0"):
        DigitsSettings(**{field: 0})
