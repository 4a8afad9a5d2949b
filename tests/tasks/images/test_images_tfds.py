"""Prepared sets of pictures: what goes in comes out in either format, without TensorFlow and without a network."""

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from test_idx import write

from kdib.tasks import prepared
from kdib.tasks.images import files, idx, task
from kdib.tasks.images import tfds as images_tfds
from kdib.tasks.images.builder import BUILDERS, _LocalInfo

TRAIN = "mnist/3.0.1/mnist-train.array_record-00000-of-00001"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """(the folder of the IDX files, the folder of the set prepared from them)."""
    folder = tmp_path_factory.mktemp("toy")
    images_tfds.prepare("mnist", write(folder / "idx"), folder / "sets")
    return folder / "idx", folder / "sets"


@pytest.fixture
def sets(toy, tmp_path):
    """A copy of the prepared set, free to be broken, in a folder without IDX files."""
    return shutil.copytree(toy[1], tmp_path / "sets", ignore=shutil.ignore_patterns("*.npz"))


def source_of(sets, name="mnist"):
    return images_tfds.source(name, images_tfds.find(name, sets))


def assert_same(found, expected):
    for images, others in ((found.train, expected.train), (found.test, expected.test)):
        np.testing.assert_array_equal(images.image, others.image, strict=True)
        np.testing.assert_array_equal(images.label, others.label, strict=True)


def framed(record):
    """A record in TFRecord's framing; test_prepared holds the checksum against the published values."""
    length = struct.pack("<Q", len(record))
    length_sum, record_sum = (struct.pack("<I", prepared.masked_crc32c(data)) for data in (length, record))
    return length + length_sum + record + record_sum


def as_tfrecord(sets, folder="mnist/3.0.1", name="mnist", n_shards=2):
    """Writes the set as TensorFlow would: the same examples in TFRecord's framing, and the format's name."""
    builder = images_tfds.find(name, sets)
    info = json.loads((sets / folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        images = images_tfds.decode(builder, split["name"])
        rows = [encoded_example(builder, *row) for row in zip(*images, strict=True)]
        shards = np.array_split(np.arange(len(rows)), n_shards)
        for i, shard in enumerate(shards):
            file = sets / folder / f"{folder.partition('/')[0]}-{split['name']}.tfrecord-{i:05d}-of-{n_shards:05d}"
            file.write_bytes(b"".join(framed(rows[row]) for row in shard))
        split["shardLengths"] = [str(len(shard)) for shard in shards]
    for file in (sets / folder).glob("*array_record*"):
        file.unlink()
    (sets / folder / "dataset_info.json").write_text(json.dumps(info))


def encoded_example(builder, image, label):
    features = builder.info.features
    example = {"id": "", "image": png(image), "label": int(label)}
    return features.serialize_example(features.encode_example({name: example[name] for name in features}))


def png(image):
    """An encoded picture [H, W, 1 or 3], as a file."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "png")
    file.seek(0)
    return file


# ---- what goes in comes out


def test_a_prepared_set_is_read_back(toy):
    source = source_of(toy[1])
    assert_same(source, idx.read("mnist", toy[0]))
    assert source.train.image.shape == (30, 28, 28, 1) and source.origin == f"TFDS, {toy[1] / 'mnist' / '3.0.1'}"
    assert_same(source_of(toy[1]), source)  # from the kept arrays


@pytest.mark.parametrize(
    ("file", "text"), [("dataset_info.json", ""), ("dataset_info.json", "{"), ("features.json", "null")]
)
def test_a_damaged_description_names_the_set(sets, file, text):
    (sets / "mnist/3.0.1" / file).write_text(text)
    with pytest.raises(ValueError, match=rf"{re.escape(str(sets / 'mnist'))}.*expected a set that TFDS has prepared"):
        images_tfds.find("mnist", sets)


def test_a_damaged_description_in_the_default_folder_names_it(sets, monkeypatch):
    monkeypatch.setattr(images_tfds.constants, "DATA_DIR", str(sets))
    (sets / "mnist/3.0.1/dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{re.escape(str(sets / 'mnist'))}.*expected a set that TFDS has prepared"):
        images_tfds.find("mnist", None)


def test_a_set_without_a_test_split_is_named(sets):
    file = sets / "mnist/3.0.1/dataset_info.json"
    info = json.loads(file.read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
    file.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"mnist/3\.0\.1.*no split test, expected the splits train and test"):
        images_tfds.find("mnist", sets)


def test_tfrecord_is_read_in_the_order_of_its_files(toy, sets):
    as_tfrecord(sets)
    assert images_tfds.find("mnist", sets).info.file_format.value == "tfrecord"
    assert_same(source_of(sets), idx.read("mnist", toy[0]))


COLOURS = np.random.default_rng(7).integers(0, 256, (12, 32, 32, 3), np.uint8)


class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What TFDS's own builder of this name prepares, of random pictures."""

    name, VERSION = "cifar10", tfds.core.Version("3.0.2")

    def _info(self):
        image, label = tfds.features.Image(shape=(32, 32, 3)), tfds.features.ClassLabel(num_classes=10)
        features = tfds.features.FeaturesDict({"id": tfds.features.Text(), "image": image, "label": label})
        return _LocalInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "test")}

    def _generate_examples(self):
        for i, image in enumerate(COLOURS):
            yield i, {"id": f"picture_{i}", "image": png(image), "label": i % 10}


def test_pictures_in_colour_are_read_from_either_format(tmp_path):
    prepare = Cifar10(data_dir=tmp_path, file_format="array_record").download_and_prepare
    prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    first = source_of(tmp_path, "cifar10")
    for images in (first.train, first.test):
        np.testing.assert_array_equal(images.image, COLOURS, strict=True)
        np.testing.assert_array_equal(images.label, np.arange(12) % 10)
    for kept in tmp_path.glob("cifar10/3.0.2/*.npz"):
        kept.unlink()
    as_tfrecord(tmp_path, "cifar10/3.0.2", "cifar10")
    assert images_tfds.find("cifar10", tmp_path).info.file_format.value == "tfrecord"
    assert_same(source_of(tmp_path, "cifar10"), first)


def test_tfds_takes_the_set_for_its_own(toy):
    rows = tfds.data_source("mnist", split="test", data_dir=toy[1], download=False)
    source = idx.read("mnist", toy[0])
    assert len(rows) == 20 and rows[3]["label"] == source.test.label[3]
    np.testing.assert_array_equal(rows[3]["image"], source.test.image[3], strict=True)
    theirs = tfds.builder("mnist", data_dir=toy[1])
    assert theirs.is_prepared() and theirs.VERSION == BUILDERS["mnist"].VERSION


@pytest.mark.parametrize("name", BUILDERS)
def test_the_name_and_version_are_those_of_tfds(tmp_path, name):
    ours, theirs = BUILDERS[name](path=tmp_path, data_dir=tmp_path), tfds.builder(name, data_dir=tmp_path)
    assert ours.data_path == theirs.data_path
    assert repr(ours.info.features) == repr(theirs.info.features)


def corrupted(toy, tmp_path):
    """The toy set in the place of the published MNIST-C's translated digits."""
    folder = shutil.copytree(toy[1] / "mnist" / "3.0.1", tmp_path / "mnist_corrupted" / "translate" / "1.0.0")
    for file in list(folder.glob("mnist-*")):
        file.rename(folder / file.name.replace("mnist", "mnist_corrupted", 1))
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"name": "mnist_corrupted", "configName": "translate", "version": "1.0.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return tmp_path


def test_a_set_with_configurations_is_read(toy, tmp_path):
    folder = corrupted(toy, tmp_path)
    assert_same(source_of(folder, "mnist_corrupted/translate"), idx.read("mnist", toy[0]))
    as_tfrecord(folder, "mnist_corrupted/translate/1.0.0", "mnist_corrupted/translate")
    assert_same(source_of(folder, "mnist_corrupted/translate"), idx.read("mnist", toy[0]))
    assert images_tfds.find("mnist_corrupted/scale", folder) is None


def test_the_published_corruptions_are_test_sets_that_a_config_names(toy, tmp_path):
    folder = corrupted(toy, tmp_path)
    shutil.copytree(toy[1] / "mnist", folder / "mnist")
    settings = {"data_dir": str(folder), "n_validation": 5}
    built = task.build(task.MnistSettings(**settings, corrupted=("translate",)))
    assert list(built.tests) == ["test", "translated", "scaled", "mnist_c_translate"]
    published = built.tests["mnist_c_translate"].inputs
    np.testing.assert_array_equal(published["image"], idx.read("mnist", toy[0]).test.image)
    assert built.facts["sets"]["mnist_c_translate"]["size"] == 20
    with pytest.raises(FileNotFoundError, match=r"config\.task\.corrupted: found no set 'fog' .*tfds build mnist_corr"):
        task.build(task.MnistSettings(**settings, corrupted=("fog",)))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn_cropped", "fashion_mnist", "mnist_corrupted/scale"])
def test_mocked_data_of_tfds_take_the_same_way(tmp_path, name):
    shape = (32, 32, 3) if name in ("cifar10", "svhn_cropped") else (28, 28, 1)
    with tfds.testing.mock_data(num_examples=7):
        builder = tfds.builder(name, data_dir=tmp_path, file_format="array_record")
        images = images_tfds.checked(images_tfds.decode(builder, "train"), name, "mock")
    assert images.image.shape == (7, *shape) and images.image.dtype == np.uint8
    assert images.label.shape == (7,) and images.label.dtype == np.int32


def test_mocked_data_are_not_kept_as_the_real_set(sets):
    mocked = {"num_examples": 7, "data_dir": str(sets), "policy": tfds.testing.MockPolicy.USE_FILES}
    with (
        tfds.testing.mock_data(**mocked),
        pytest.raises(ValueError, match="found 7 examples, expected 30, as in datas"),
    ):
        source_of(sets)
    assert len(source_of(sets).train.label) == 30


def test_the_command_line_needs_no_tensorflow(tmp_path):
    # an installed TensorFlow is played by a package that says when it is loaded
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise AssertionError('TensorFlow is loaded')")
    folder = write(tmp_path / "idx" / "fashion_mnist", ".gz").parent
    code = (
        "import runpy, sys; runpy.run_module('kdib.tasks.images.tfds', run_name='__main__'); "
        "from kdib.tasks.images import files; "
        f"print(len(files.read('fashion_mnist', {str(tmp_path / 'sets')!r}).test.label), 'tensorflow' in sys.modules)"
    )
    arguments = ["--name=fashion_mnist", f"--path={folder}", f"--data_dir={tmp_path / 'sets'}"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=True
    )
    told, found = done.stdout.splitlines()[-2:]
    assert told == f"train 30, test 20; --config.task.source=fashion_mnist --config.task.data_dir={tmp_path / 'sets'}"
    assert found == "20 False"


# ---- what is kept


def test_a_set_is_decoded_once(sets, monkeypatch):
    first = source_of(sets)
    assert len(list(sets.glob("mnist/3.0.1/images-*.npz"))) == 2
    monkeypatch.setattr(images_tfds, "decode", None)
    assert_same(source_of(sets), first)


def test_a_set_that_is_prepared_anew_is_not_read_stale(sets, toy, tmp_path):
    source_of(sets)
    as_tfrecord(sets)
    file = next(sets.glob("mnist/3.0.1/mnist-train.tfrecord-00000*"))
    builder = images_tfds.find("mnist", sets)
    rows = list(prepared.tfrecords(file, 15))
    black = encoded_example(builder, np.zeros((28, 28, 1), np.uint8), 0)
    file.write_bytes(b"".join(map(framed, [black, *rows[1:]])))
    assert source_of(sets).train.image[0].max() == 0


# ---- what is refused


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-3], "00001-of-00002: found an end within record 14"),
        (lambda raw: raw[:900] + bytes([raw[900] ^ 1]) + raw[901:], "00001-of-00002: found a wrong checksum in record"),
        (lambda raw: b"", "00001-of-00002: found 0 records, expected 15"),
    ],
)
def test_a_damaged_tfrecord_is_named(sets, damage, message):
    as_tfrecord(sets)
    file = sets / "mnist/3.0.1/mnist-train.tfrecord-00001-of-00002"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        source_of(sets)


@pytest.mark.parametrize("damage", [lambda raw: raw[:1000], lambda raw: b"", lambda raw: raw[: len(raw) // 2] * 2])
def test_a_damaged_array_record_is_named(sets, damage):
    (sets / TRAIN).write_bytes(damage((sets / TRAIN).read_bytes()))
    with pytest.raises(ValueError, match=r"mnist/3\.0\.1: found .*, expected undamaged array_record files"):
        source_of(sets)


def test_an_absent_file_of_the_set_is_named(sets):
    (sets / TRAIN).unlink()
    with pytest.raises(FileNotFoundError, match="mnist-train"):
        source_of(sets)


def test_damaged_arrays_are_named(sets):
    source_of(sets)
    file = next(sets.glob("mnist/3.0.1/images-test-*.npz"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"images-test-[0-9a-f]{16}\.npz: found .*delete it to rebuild it"):
        source_of(sets)


def test_a_set_of_other_pictures_is_refused(sets):
    (sets / "mnist").rename(sets / "cifar10")
    info = (sets / "cifar10/3.0.1/dataset_info.json").read_text()
    (sets / "cifar10/3.0.1/dataset_info.json").write_text(info.replace('"name": "mnist"', '"name": "cifar10"'))
    for file in list((sets / "cifar10/3.0.1").glob("mnist-*")):
        file.rename(file.parent / file.name.replace("mnist", "cifar10"))
    with pytest.raises(ValueError, match=r"found images of shape \(30, 28, 28, 1\), expected \[N, 32, 32, 3\]"):
        files.read("cifar10", str(sets))


def test_nothing_is_prepared_over_a_set(toy, tmp_path):
    with pytest.raises(FileExistsError, match=r"mnist/3\.0\.1 is prepared already; delete it"):
        images_tfds.prepare("mnist", *toy)
    with pytest.raises(FileNotFoundError, match=rf"found no IDX files of mnist at {tmp_path}"):
        images_tfds.prepare("mnist", tmp_path, tmp_path)


def test_the_command_line_answers_in_a_line(tmp_path, monkeypatch, capsys):
    (write(tmp_path / "idx") / "t10k-labels-idx1-ubyte").write_bytes(b"broken")
    arguments = ["tfds", "--name=mnist", f"--path={tmp_path / 'idx'}", f"--data_dir={tmp_path / 'sets'}"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        images_tfds.main()
    assert "t10k-labels-idx1-ubyte: found the magic number 0x62726f6b" in capsys.readouterr().err.splitlines()[-1]
    start = time.monotonic()
    assert images_tfds.find("mnist", tmp_path / "sets") is None  # what broke off is no set
    assert time.monotonic() - start < 5
