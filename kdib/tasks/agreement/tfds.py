"""The TFDS set `kdib_agreement`: sentences of a local corpus, prepared and read without TensorFlow.

    python -m kdib.tasks.agreement.tfds --path=my.tsv.gz --data_dir=FOLDER

prepares FOLDER/kdib_agreement as array_record; `path` is anything that `corpus.read` accepts. The task then accepts the
path "tfds:kdib_agreement@FOLDER", or "tfds:kdib_agreement" for the default folder of TFDS. After
`import kdib.tasks.agreement.tfds`, `tfds.data_source("kdib_agreement", data_dir=FOLDER)` reads the set too.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kdib.tasks import prepared
from kdib.tasks.agreement import corpus
from kdib.tasks.agreement.builder import FIELDS, SPLIT, TEXTS, WORDS, KdibAgreement
from kdib.tasks.agreement.encoding import Examples
from kdib.tasks.prepared import Arrays

NAME = KdibAgreement.name
COMMAND = "python -m kdib.tasks.agreement.tfds --path=FILE --data_dir=FOLDER"


def prepare(path: str | Path, data_dir: str | Path) -> KdibAgreement:
    """Write the set of the corpus `path` to `data_dir`.

    Raises:
        FileExistsError: `data_dir` already contains the set.
        FileNotFoundError, ValueError: as `corpus.read`.
    """
    builder = KdibAgreement(path=path, data_dir=data_dir, file_format="array_record")
    if builder.is_prepared():
        raise FileExistsError(f"{builder.data_path} is prepared already; delete it or choose another data_dir")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return builder


def find(path: str) -> KdibAgreement:
    """The prepared set of a path "tfds:kdib_agreement" or "tfds:kdib_agreement@FOLDER". Does not use the network.

    Raises:
        ValueError: the path names another set.
        FileNotFoundError: there is no prepared set; the message says how to prepare one.
    """
    name, _, folder = path.removeprefix(corpus.PREPARED).partition("@")
    if name != NAME:
        expected = f"{corpus.PREPARED}{NAME} or {corpus.PREPARED}{NAME}@FOLDER"
        raise ValueError(f"found the path {path!r}, expected {expected}")
    builder = KdibAgreement(data_dir=Path(folder).expanduser() if folder else None)
    if not builder.is_prepared():
        raise FileNotFoundError(f"no set is prepared in {builder.data_path}; prepare one with {COMMAND}")
    return builder


def read(path: str) -> Examples:
    """The sentences of a prepared set, in order; they are decoded once and then cached as arrays next to the set.

    Raises as `find`, and ValueError, naming the file, if the set or the cache is damaged.
    """
    builder = find(path)
    file = Path(builder.data_path) / f"examples-{prepared.key(builder, SPLIT)[:16]}.npz"
    return unpack(prepared.kept(file, lambda: _whole(builder)))


def blocks(path: str, size: int) -> Iterator[Examples]:
    """The sentences of a prepared set, `size` at a time, decoded without a cache. Raises as `read`."""
    builder = find(path)
    records, found = prepared.records(builder, SPLIT), 0
    while block := list(islice(records, size)):
        found += len(block)
        yield unpack(_columns(block))
    _check_count(builder, found)


def key(path: str) -> str:
    """A hash of the file contents of a prepared set."""
    return prepared.key(find(path), SPLIT)


def _whole(builder: KdibAgreement) -> Arrays:
    arrays = decode(builder)
    _check_count(builder, len(arrays["label"]))  # mock examples of tfds.testing.mock_data must not be cached
    return arrays


def _check_count(builder: KdibAgreement, found: int) -> None:
    if found != (expected := builder.info.splits[SPLIT].num_examples):
        raise ValueError(f"{builder.data_path}: found {found} examples, expected {expected}, as in dataset_info.json")


def decode(builder: KdibAgreement) -> Arrays:
    """The columns FIELDS of a prepared set: numbers as int32 [N], texts as the UTF-8 bytes (uint8) of one JSON list."""
    return _columns(prepared.records(builder, SPLIT))


def _columns(records: Iterable[Mapping[str, Any]]) -> Arrays:
    columns = {name: [] for name in FIELDS}
    for record in records:
        for name, column in columns.items():
            column.append(record[name])
    return {name: _packed(columns[name]) if name in TEXTS else np.array(columns[name], np.int32) for name in FIELDS}


def _packed(texts: Iterable[str | bytes]) -> np.ndarray:
    spelled = [text.decode() if isinstance(text, bytes) else text for text in texts]
    return np.frombuffer(json.dumps(spelled).encode(), np.uint8)


def unpack(arrays: Arrays) -> Examples:
    """The Examples of the arrays that `decode` returns."""
    columns: dict[str, Any] = dict(arrays) | {name: json.loads(arrays[name].tobytes()) for name in TEXTS}
    columns |= {name: _words(columns[name]) for name in WORDS}
    return Examples(*(columns[name] for name in FIELDS))


def _words(texts: Iterable[str]) -> list[tuple[str, ...]]:
    return [tuple(map(intern, text.split(" "))) for text in texts]


def main() -> None:
    """Prepare the set given on the command line."""
    parser = argparse.ArgumentParser(description=f"Prepares the TFDS set {NAME} from a local corpus.")
    parser.add_argument("--path", required=True, help="a .tsv or .tsv.gz, or a folder that kdib reads as a corpus")
    parser.add_argument("--data_dir", required=True, help=f"the set is written to DATA_DIR/{NAME}")
    arguments = parser.parse_args()
    try:
        builder = prepare(arguments.path, arguments.data_dir)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    count = builder.info.splits[SPLIT].num_examples
    print(f"{count} sentences; --config.task.train=\"('{corpus.PREPARED}{NAME}@{arguments.data_dir}',)\"")


if __name__ == "__main__":
    main()
