"""Pictures as JPEG files end to end: each is cut out and decoded, and every malformed file is named."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from kdib.tasks.images import jpegs
from kdib.tasks.images.sets import CIFAR10

PICTURES = [np.full((32, 32, 3), 25 * i, np.uint8) for i in range(6)]


def jpeg(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return file.getvalue()


def arrays(pictures):
    files = [jpeg(picture) for picture in pictures]
    return {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)]),
        "label": np.arange(len(files), dtype=np.uint8),
        "names": np.array(CIFAR10),
    }


def write(folder, **change):
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        np.savez(folder / f"cifar10_jpeg_{split}_6.npz", **(arrays(PICTURES) | (change if split == "test" else {})))
    return folder


def test_every_picture_is_cut_out_and_decoded(tmp_path):
    source = jpegs.read("cifar10_jpeg", write(tmp_path))
    for images in (source.train, source.test):
        assert images.image.dtype == np.uint8 and images.label.dtype == np.int32
        np.testing.assert_array_equal(images.label, np.arange(6))
        assert np.abs(images.image.astype(int) - np.stack(PICTURES)).max() <= 2  # JPEG is lossy
    assert "accuracies on them are not accuracies on CIFAR-10" in source.origin


def test_the_real_files(data_dir):
    folder = jpegs.find("cifar10_jpeg", data_dir)
    if folder is None:
        pytest.skip(f"no JPEG pictures at {data_dir}")
    images = jpegs.images("cifar10_jpeg", folder / "cifar10_jpeg_test_2k.npz")
    assert images.image.shape == (2000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(images.label), np.full(10, 200))
    assert 100 < images.image.mean() < 140 and 50 < images.image.std() < 75  # CIFAR-10: 121 and 63


def test_where_they_are_found(tmp_path):
    assert jpegs.find("cifar10_jpeg", tmp_path) is None
    folder = write(tmp_path / "cifar10_jpeg")
    assert jpegs.find("cifar10_jpeg", tmp_path) == folder == jpegs.find("cifar10_jpeg", folder)
    (folder / "cifar10_jpeg_test_6.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"found 0 files cifar10_jpeg_test_\*\.npz, expected one"):
        jpegs.read("cifar10_jpeg", folder)


GOOD = arrays(PICTURES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": GOOD["offset"][:-1]}, "6 offsets and 6 labels, expected one offset more than labels"),
        ({"offset": np.r_[2, GOOD["offset"][1:]]}, "offsets from 2 to .*, expected increasing ones from 0 to"),
        ({"offset": GOOD["offset"] + 1}, "offsets from 1 to .*, expected increasing ones from 0 to"),
        ({"jpeg": GOOD["jpeg"][:-1]}, "offsets from 0 to .*, expected increasing ones from 0 to .*, the bytes there"),
        ({"offset": GOOD["offset"][[0, 2, 1, 3, 4, 5, 6]]}, "offsets from 0 to"),
        ({"label": GOOD["label"] + np.uint8(5)}, r"labels 5\.\.10, expected 0\.\.9"),
        ({"names": np.array(CIFAR10[::-1])}, "the classes truck, ship, .*, expected airplane, automobile"),
        ({"jpeg": np.zeros_like(GOOD["jpeg"])}, "picture 0: found UnidentifiedImageError: .*, expected a whole JPEG"),
        (
            arrays([np.zeros((16, 16, 3), np.uint8)]),
            r"picture 0: found the shape \(16, 16, 3\), expected \(32, 32, 3\)",
        ),
        (arrays([np.zeros((32, 32), np.uint8)]), r"picture 0: found the shape \(32, 32\), expected \(32, 32, 3\)"),
        ({"names": np.array([None])}, "ValueError: Object arrays cannot be loaded.*, expected an undamaged .npz file"),
    ],
)
def test_malformed_arrays_are_named(tmp_path, change, message):
    write(tmp_path, **change)
    with pytest.raises(ValueError, match=rf"cifar10_jpeg_test_6\.npz.*(found )?{message}"):
        jpegs.read("cifar10_jpeg", tmp_path)


def test_a_picture_that_breaks_off_is_named(tmp_path):
    cut = [*map(jpeg, PICTURES[:2]), jpeg(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))[:-200]]
    offset = np.cumsum([0, *map(len, cut)])
    write(tmp_path, jpeg=np.frombuffer(b"".join(cut), np.uint8), offset=offset, label=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"test_6\.npz, picture 2: found OSError: .*, expected a whole JPEG file"):
        jpegs.read("cifar10_jpeg", tmp_path)


def test_a_damaged_or_incomplete_npz_is_named(tmp_path):
    file = write(tmp_path) / "cifar10_jpeg_train_6.npz"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"train_6\.npz: found BadZipFile: .*, expected an undamaged \.npz file"):
        jpegs.read("cifar10_jpeg", tmp_path)
    with zipfile.ZipFile(file, "w"):
        pass
    with pytest.raises(ValueError, match=r"train_6\.npz: found no array 'jpeg', expected the arrays jpeg, offset, lab"):
        jpegs.read("cifar10_jpeg", tmp_path)
