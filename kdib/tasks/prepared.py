"""Sets that TensorFlow Datasets has prepared, read without TensorFlow, and arrays kept in a file that is checked."""

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
DIGEST = "sha256"  # the array of a kept file that holds the digest of all others
BLOCK = 4096  # bytes whose checksum is one gather; its table has 4 MB
LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


def records(builder: Any, split: str) -> Iterator[Mapping[str, Any]]:
    """Every example of a split of a prepared `builder`, decoded by its features, in the order of its files.

    `tfds.data_source` reads array_record. Of tfrecord, which is what `tfds.load` leaves, TFDS leaves the reading to
    TensorFlow; so it is done here.

    Raises:
        FileNotFoundError: a file of the set is not there.
        ValueError: a file is damaged; it names the file, or for array_record the set's folder.
    """
    import tensorflow_datasets as tfds

    if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
        shards = builder.info.splits[split]
        for file, length in zip(shards.filepaths, shards.shard_lengths, strict=True):
            yield from map(builder.info.features.deserialize_example_np, tfrecords(Path(file), length))
        return
    source: Any = tfds.data_source(builder.name, split=split, data_dir=builder.data_dir_root, download=False)
    try:
        yield from source
    except RuntimeError as error:
        raise _damaged(builder.data_path, error, "undamaged array_record files") from error


def key(builder: Any, split: str) -> str:
    """A hash of what the files of a prepared split contain, so that a set that is prepared anew has another."""
    sha = hashlib.sha256()
    described = (Path(builder.data_path) / name for name in ("dataset_info.json", "features.json"))
    for file in (*described, *builder.info.splits[split].filepaths):
        with open(file, "rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()


# ---- tfrecord


def tfrecords(file: Path, expected: int) -> Iterator[bytes]:
    """The `expected` records of a TFRecord file: length, its checksum, the bytes, their checksum, one after another.

    Raises ValueError, naming the file, if a record breaks off or its bytes are not those that were written.
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
    """`data`, after its size and the checksum that follows it in `stream` were found to be right."""
    stored = stream.read(CHECKSUM.size)
    if len(data) < size or len(stored) < CHECKSUM.size:
        raise _damaged(file, f"an end within record {record}", "whole records")
    if masked_crc32c(data) != CHECKSUM.unpack(stored)[0]:
        raise _damaged(file, f"a wrong checksum in record {record}", "the bytes that were written")
    return data


def masked_crc32c(data: bytes) -> int:
    """The CRC-32C of `data`, masked as TFRecord stores it.

    A CRC is linear: each byte adds what the table holds for its value and its distance from the block's end, and so
    do the four bytes of the state, laid over the block's first four. So there is no loop over bytes in Python.
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
    """What a byte of each value does to the state after 0, 1, ... further bytes [BLOCK, 256] uint32."""
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
    """The arrays of the .npz `file`, which is written from `make()` if it is not there.

    Raises ValueError, naming the file, if it is damaged. A folder that cannot be written to costs a warning.
    """
    if file.exists():
        return _load(file)
    arrays = make()
    try:
        _store(file, arrays)
    except OSError as error:
        warnings.warn(f"{file} cannot be written ({error}), so the set is decoded again every time", stacklevel=2)
    return arrays


def _store(file: Path, arrays: Arrays) -> None:
    """Writes so that a reader finds no file or a whole one, whoever else writes it."""
    stored = {**arrays, DIGEST: np.frombuffer(bytes.fromhex(fingerprint(arrays)), np.uint8)}
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    with open(partial, "wb") as stream:
        np.savez(stream, allow_pickle=False, **stored)
    os.replace(partial, file)


def _load(file: Path) -> Arrays:
    expected = "a file as kdib wrote it; delete it, and it is made anew"
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
        written = bytes(arrays.pop(DIGEST)).hex()
    except Exception as error:  # zip, zlib, numpy: each has its own, and all mean the same
        raise _damaged(file, f"{type(error).__name__}: {error}", expected) from error
    if (digest := fingerprint(arrays)) != written:
        raise _damaged(file, f"arrays of SHA-256 {digest[:12]}", f"{written[:12]}, {expected}")
    return arrays


def _damaged(place: Any, found: object, expected: str) -> ValueError:
    return ValueError(f"{place}: found {found}, expected {expected}")
