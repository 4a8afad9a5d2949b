"""Read data sets prepared by TensorFlow Datasets without TensorFlow, and cache arrays in a file with a checksum."""

import functools
import hashlib
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdib.trees import fingerprint

Arrays = Mapping[str, np.ndarray]
DIGEST = "sha256"  # the array of a cache file that holds the digest of all others
BLOCK = 4096  # bytes whose checksum is computed by one gather; the table takes 4 MB
LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


def records(builder: Any, split: str) -> Iterator[Mapping[str, Any]]:
    """Every example of a split of a prepared `builder`, decoded by its features, in the order of the files.

    TFDS's data source reads array_record. For tfrecord, the default format of `tfds.load`, TFDS requires TensorFlow, so
    `tfrecords` reads these files.

    Raises:
        FileNotFoundError: a file of the data set is missing.
        ValueError: a file is damaged; the message names the file, or for array_record the folder of the data set.
    """
    import tensorflow_datasets as tfds

    if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
        shards = builder.info.splits[split]
        for file, length in zip(shards.filepaths, shards.shard_lengths, strict=True):
            yield from map(builder.info.features.deserialize_example_np, tfrecords(Path(file), length))
        return
    try:
        yield from builder.as_data_source(split=split)
    except RuntimeError as error:
        raise _damaged(builder.data_path, error, "undamaged array_record files") from error


def key(builder: Any, split: str) -> str:
    """A hash of the files of a prepared split, which changes when the split is prepared again with other contents."""
    sha = hashlib.sha256()
    described = (Path(builder.data_path) / name for name in ("dataset_info.json", "features.json"))
    for file in (*described, *builder.info.splits[split].filepaths):
        with open(file, "rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()


# ---- tfrecord


def tfrecords(file: Path, expected: int) -> Iterator[bytes]:
    """The records of a TFRecord file, each stored as its length, a checksum of it, the bytes and their checksum.

    Raises ValueError, naming the file, if a record is cut off, a checksum is wrong, or the number of records is not
    `expected`.
    """
    found = 0
    with open(file, "rb") as stream:
        while head := stream.read(LENGTH.size):
            length = LENGTH.unpack(_checked(file, found, stream, head, LENGTH.size))[0]
            yield _checked(file, found, stream, stream.read(length), length)
            found += 1
    if found != expected:
        raise _damaged(file, f"{found} records", f"{expected}, as in dataset_info.json")


def _checked(file: Path, record: int, stream: Any, data: bytes, size: int) -> bytes:
    """Return `data` after checking its size and the checksum that follows it in `stream`."""
    stored = stream.read(CHECKSUM.size)
    if len(data) < size or len(stored) < CHECKSUM.size:
        raise _damaged(file, f"an end within record {record}", "whole records")
    if masked_crc32c(data) != CHECKSUM.unpack(stored)[0]:
        raise _damaged(file, f"a wrong checksum in record {record}", "the bytes that were written")
    return data


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of `data`, masked as TFRecord stores it.

    A CRC is linear: each byte contributes the table entry for its value and its distance from the end of the block. The
    four bytes of the state are XORed into the first four bytes of the block. This avoids a Python loop over bytes.
    Reference: RFC 3720, section 12.1, and TensorFlow's record format.
    """
    table_BxV, state = _crc_table(), 0xFFFFFFFF
    for start in range(0, len(data), BLOCK):
        block = np.frombuffer(data[start : start + BLOCK], np.uint8).copy()
        n = len(block)
        block[:4] ^= np.frombuffer(CHECKSUM.pack(state), np.uint8)[:n]
        state = state >> 8 * n ^ int(np.bitwise_xor.reduce(table_BxV[np.arange(n)[::-1], block]))
    crc = state ^ 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc_table() -> np.ndarray:
    """The contribution of each byte value to the state after 0, 1, ... further bytes: [BLOCK, 256] uint32."""
    row_V = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row_V = row_V >> 1 ^ np.where(row_V & 1, np.uint32(0x82F63B78), np.uint32(0))
    table_BxV = np.empty((BLOCK, 256), np.uint32)
    table_BxV[0] = row_V
    for i in range(1, BLOCK):
        table_BxV[i] = row_V[table_BxV[i - 1] & 255] ^ table_BxV[i - 1] >> 8
    return table_BxV


# ---- arrays in a file


def kept(file: Path, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of the .npz `file`, which is created from `make()` if it does not exist.

    Raises ValueError, naming the file, if it is damaged. Warns if the folder is not writable.
    """
    if file.exists():
        return _load(file)
    arrays = make()
    try:
        _store(file, arrays)
    except OSError as error:
        warnings.warn(f"{file} cannot be written ({error}); the set will be decoded again every time", stacklevel=2)
    return arrays


def _store(file: Path, arrays: Arrays) -> None:
    """Write the file atomically, so that a reader finds either no file or a complete one, even with several writers."""
    stored = {**arrays, DIGEST: np.frombuffer(bytes.fromhex(fingerprint(arrays)), np.uint8)}
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with open(partial, "wb") as stream:
        np.savez(stream, allow_pickle=False, **stored)
    os.replace(partial, file)


def _load(file: Path) -> Arrays:
    expected = "a file as kdib wrote it; delete it to rebuild it"
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
        written = bytes(arrays.pop(DIGEST)).hex()
    except Exception as error:  # zip, zlib and numpy raise different errors for a damaged file
        raise _damaged(file, f"{type(error).__name__}: {error}", expected) from error
    if (digest := fingerprint(arrays)) != written:
        raise _damaged(file, f"arrays of SHA-256 {digest[:12]}", f"{written[:12]}, {expected}")
    return arrays


def _damaged(place: Any, found: object, expected: str) -> ValueError:
    return ValueError(f"{place}: found {found}, expected {expected}")
