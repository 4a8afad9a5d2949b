"""IDX files, plain and gzipped, where they are found, and what is said of each that is malformed."""

import gzip
import hashlib
import shutil
import struct

import numpy as np
import pytest

from kdib.tasks.images import files, idx

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (30, 28, 28), np.uint8), "t10k": RNG.integers(0, 256, (20, 28, 28), np.uint8)}
LABELS = {"train": np.arange(30, dtype=np.uint8) % 10, "t10k": np.arange(20, dtype=np.uint8) % 10}


def encoded(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, suffix="", dot="-"):
    """The four files of a toy."""
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if suffix == ".gz" else bytes
    for kind, members in ((f"images{dot}idx3", IMAGES), (f"labels{dot}idx1", LABELS)):
        for member, array in members.items():
            (folder / f"{member}-{kind}-ubyte{suffix}").write_bytes(pack(encoded(array)))
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", ["-", "."])
def test_what_was_written_is_read(tmp_path, suffix, dot):
    source = idx.read("mnist", write(tmp_path, suffix, dot))
    for images, member in ((source.train, "train"), (source.test, "t10k")):
        np.testing.assert_array_equal(images.image, IMAGES[member][..., None], strict=True)
        np.testing.assert_array_equal(images.label, LABELS[member].astype(np.int32), strict=True)
    assert source.origin == f"IDX files in {tmp_path}"


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), (0, 5)])
def test_any_number_of_axes(tmp_path, shape):
    array = RNG.integers(0, 256, shape, np.uint8)
    (tmp_path / "x").write_bytes(encoded(array))
    np.testing.assert_array_equal(idx.array(tmp_path / "x", len(shape)), array, strict=True)


def test_real_mnist(data_dir):
    folder = data_dir / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no MNIST at {folder}")
    source = idx.read("mnist", folder)
    assert source.train.image.shape == (60_000, 28, 28, 1) and source.test.image.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(source.train.label[:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
    assert np.bincount(source.test.label).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # the plain file is the head and these bytes
    head = struct.pack(">4I", 0x803, 60_000, 28, 28)
    digest = hashlib.md5(head + source.train.image.tobytes(), usedforsecurity=False).hexdigest()
    assert idx.MD5[digest] == "mnist"
    with pytest.raises(
        ValueError, match=r"train-images-idx3-ubyte\.gz: found the images of mnist, expected those of f"
    ):
        idx.read("fashion_mnist", folder)


def test_real_fashion_mnist():
    folder = idx.installed("fashion_mnist")
    if folder is None:
        pytest.skip(f"no Fashion-MNIST in {idx.DEBIAN['fashion_mnist']}")
    source = idx.read("fashion_mnist", folder)
    assert source.train.image.shape == (60_000, 28, 28, 1) and source.test.image.shape == (10_000, 28, 28, 1)
    assert np.bincount(source.train.label).tolist() == [6000] * 10
    with pytest.raises(ValueError, match=r"found the images of fashion_mnist, expected those of mnist"):
        idx.read("mnist", folder)


# ---- where they are


@pytest.mark.parametrize(
    ("name", "below"),
    [
        *(("mnist", below) for below in ("mnist", "MNIST/raw", ".")),
        *(("fashion_mnist", below) for below in ("fashion_mnist", "FashionMNIST/raw")),
    ],
)
def test_the_folders_that_are_looked_into(tmp_path, name, below):
    assert idx.find(name, tmp_path) is None
    folder = write(tmp_path / below, ".gz")
    assert idx.find(name, tmp_path).samefile(folder)


def test_a_set_of_another_name_is_not_found(tmp_path):
    write(tmp_path / "mnist")
    assert idx.find("fashion_mnist", tmp_path) is None


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_another_set_is_passed_over(tmp_path, monkeypatch, suffix):
    known = hashlib.md5(encoded(IMAGES["train"]), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(idx.MD5, known, "fashion_mnist")
    write(tmp_path / "mnist", suffix)
    assert idx.find("mnist", tmp_path) is None
    assert idx.others("mnist", tmp_path) == [f"{tmp_path / 'mnist'} holds fashion_mnist"]
    with pytest.raises(FileNotFoundError, match=r"mnist holds fashion_mnist.*config\.task\.source='digits'"):
        files.read("mnist", str(tmp_path))
    right = write(tmp_path / "MNIST" / "raw", suffix)
    part = next(right.glob("train-images*"))
    part.write_bytes(gzip.compress(b"other") if suffix else b"other")  # damaged: what is wrong with it is said
    assert idx.find("mnist", tmp_path) == right
    with pytest.raises(ValueError, match=r"MNIST/raw/train-images-idx3-ubyte.*: found the magic number"):
        files.read("mnist", str(tmp_path))


def test_the_systems_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(idx.DEBIAN, "fashion_mnist", tmp_path / "fashion-mnist")
    assert idx.installed("fashion_mnist") is None and idx.installed("mnist") is None
    assert idx.installed("fashion_mnist") is None
    write(tmp_path / "fashion-mnist")
    assert idx.installed("fashion_mnist") == tmp_path / "fashion-mnist"


# ---- what is refused


def damaged_images(data):
    return [
        (data[:-1], "23519 bytes after the head, expected 23520, for the shape (30, 28, 28)"),
        (data + b"x", "23521 bytes after the head, expected 23520"),
        (data[:10], "10 bytes, expected a head of 16"),
        (b"", "the magic number 0x, expected 0x00000803 (unsigned bytes, 3 axes)"),
        (b"\0\0\x08\x01" + data[4:], "the magic number 0x00000801, expected 0x00000803"),
        (b"\0\0\x0d\x03" + data[4:], "the magic number 0x00000d03, expected 0x00000803"),
        (b"\x03\x08\0\0" + data[4:], "the magic number 0x03080000, expected 0x00000803"),
        (data[:4] + struct.pack(">I", 31) + data[8:], "23520 bytes after the head, expected 24304, for the shape (31,"),
        (encoded(IMAGES["train"].reshape(30, 14, 56)), "images of shape (30, 14, 56, 1), expected [N, 28, 28, 1]"),
        (encoded(IMAGES["train"][:0]), "images of shape (0, 28, 28, 1), expected [N, 28, 28, 1] with N >= 1"),
        (encoded(IMAGES["train"][:29]), "29 images and 30 labels, expected equal numbers"),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(11))
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_malformed_images_are_named(tmp_path, suffix, case):
    data, message = damaged_images(encoded(IMAGES["train"]))[case]
    file = write(tmp_path, suffix) / f"train-images-idx3-ubyte{suffix}"
    file.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(ValueError) as caught:
        idx.read("mnist", tmp_path)
    assert str(file) in str(caught.value) and f"found {message}" in str(caught.value)


def test_malformed_labels_are_named(tmp_path):
    file = write(tmp_path) / "t10k-labels-idx1-ubyte"
    for labels, message in (
        (encoded(LABELS["t10k"] + np.uint8(1)), r"found labels 1\.\.10, expected 0\.\.9"),
        (encoded(IMAGES["t10k"]), r"magic number 0x00000803, expected 0x00000801 \(unsigned bytes, 1 axes\)"),
        (encoded(LABELS["t10k"])[:-5], r"found 15 bytes after the head, expected 20, for the shape \(20,\)"),
    ):
        file.write_bytes(labels)
        with pytest.raises(ValueError, match=rf"t10k-labels-idx1-ubyte: .*{message}"):
            idx.read("mnist", tmp_path)


def test_a_damaged_gzip_file_is_named(tmp_path):
    file = write(tmp_path, ".gz") / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 16]) + whole[5001:]
    no_block = whole[:10] + b"\xff" + whole[11:]  # after the head: a kind of block that deflate does not have
    for data in (no_block, whole[:-9], whole[:100], encoded(IMAGES["train"]), flipped, whole[:-8] + bytes(8)):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: found .*, expected an undamaged gzip file"):
            idx.read("mnist", tmp_path)


@pytest.mark.parametrize("missing", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"])
def test_three_files_of_four_are_not_a_set(tmp_path, missing):
    (write(tmp_path / "mnist") / f"{missing}-ubyte").unlink()
    assert idx.find("mnist", tmp_path) == tmp_path / "mnist"
    with pytest.raises(FileNotFoundError, match=rf"found no .*{missing}-ubyte, neither plain nor \.gz"):
        idx.read("mnist", tmp_path / "mnist")
    shutil.rmtree(tmp_path / "mnist")
    assert idx.find("mnist", tmp_path) is None
