"""Read image sets prepared by TFDS without TensorFlow, in either format, and prepare sets from local IDX files.

    python -m kdib.tasks.images.tfds --name=mnist --path=FOLDER --data_dir=SETS

prepares SETS/mnist as array_record from the IDX files in FOLDER; likewise fashion_mnist. Any labelled image set that
TFDS has prepared can be read: cifar10, svhn_cropped, mnist_corrupted/translate, ...
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants, read_only_builder

from kdib.tasks import prepared
from kdib.tasks.images import idx
from kdib.tasks.images.builder import BUILDERS
from kdib.tasks.images.sets import Images, Source, checked, wrong
from kdib.tasks.prepared import Arrays


def prepare(name: str, path: str | Path, data_dir: str | Path) -> Any:
    """Write the set `name` from the IDX files at or below the folder `path` to `data_dir`, and return its TFDS builder.

    Raises:
      FileExistsError: `data_dir` already contains the set.
      FileNotFoundError, ValueError: as `idx.read`.
    """
    folder = idx.find(name, Path(path).expanduser())
    if folder is None:
        raise FileNotFoundError(f"found no IDX files of {name} at {path}, expected four such as t10k-labels-idx1-ubyte")
    builder = BUILDERS[name](path=folder, data_dir=data_dir, file_format="array_record")
    if builder.is_prepared():
        raise FileExistsError(f"{builder.data_path} is prepared already; delete it or choose another data_dir")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return builder


def find(name: str, data_dir: Path | None) -> Any:
    """The TFDS builder of a prepared set such as "mnist" or "mnist_corrupted/scale"; None if there is none.

    It searches `data_dir`, or the default folder of TFDS if that is None, and does not use the network. Raises
    ValueError, naming the folder, if the files that describe the set are damaged or lack a split.
    """
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        return None
    except Exception as error:  # protobuf, json and TFDS raise different errors for damage
        place = Path(data_dir or constants.DATA_DIR).expanduser() / name
        raise wrong(place, f"{type(error).__name__}: {error}", "a set that TFDS has prepared") from error
    if missing := {"train", "test"} - builder.info.splits.keys():
        raise wrong(builder.data_path, f"no split {' and '.join(sorted(missing))}", "the splits train and test")
    return builder


def source(name: str, builder: Any) -> Source:
    """The training and test split of a prepared set `name`. Raises as `images`."""
    train, test = (images(name, builder, split) for split in ("train", "test"))
    return Source(train, test, f"TFDS, {builder.data_path}")


def images(name: str, builder: Any, split: str) -> Images:
    """One split of the set `name`; it is decoded once and then cached as arrays next to the set.

    Raises:
      FileNotFoundError: a file of the set is missing.
      ValueError: a file is damaged or has images of another set; the message names the file or the folder.
    """
    file = Path(builder.data_path) / f"images-{split}-{prepared.key(builder, split)[:16]}.npz"
    arrays = prepared.kept(file, lambda: _whole(builder, split))
    return checked(Images(arrays["image"], arrays["label"]), name, builder.data_path)


def _whole(builder: Any, split: str) -> Arrays:
    images, expected = decode(builder, split), builder.info.splits[split].num_examples
    if (found := len(images.label)) != expected:  # tfds.testing.mock_data: must not be kept as the real set
        raise wrong(builder.data_path, f"{found} examples", f"{expected}, as in dataset_info.json")
    return images._asdict()


def decode(builder: Any, split: str) -> Images:
    """The images of a split, decoded without a cache. Raises as `images`."""
    columns: tuple[list, list] = ([], [])
    for record in _records(builder, split):
        for column, field in zip(columns, Images._fields, strict=True):
            column.append(record[field])
    return Images(np.stack(columns[0]), np.array(columns[1], np.int32))


def _records(builder: Any, split: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from prepared.records(builder, split)
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # array_record, protobuf and Pillow raise different errors for damage
        found = f"{type(error).__name__}: {error}"
        raise wrong(builder.data_path, found, f"undamaged {builder.info.file_format.value} files") from error


def main() -> None:
    """Prepare the set given on the command line."""
    parser = argparse.ArgumentParser(description="Prepares a TFDS set from local IDX files.")
    parser.add_argument("--name", required=True, choices=BUILDERS)
    parser.add_argument("--path", required=True, help="the folder of the four IDX files, plain or .gz")
    parser.add_argument("--data_dir", required=True, help="the set is written to DATA_DIR/NAME")
    arguments = parser.parse_args()
    try:
        builder = prepare(arguments.name, arguments.path, arguments.data_dir)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    counts = ", ".join(f"{split} {info.num_examples}" for split, info in builder.info.splits.items())
    print(f"{counts}; --config.task.source={arguments.name} --config.task.data_dir={arguments.data_dir}")


if __name__ == "__main__":
    main()
