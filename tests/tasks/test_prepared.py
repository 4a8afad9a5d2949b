"""Prepared sets without TensorFlow: the framing of TFRecord, and arrays that are kept and checked."""

import struct

import numpy as np
import pytest

from kdib.tasks import prepared


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 defines it: what the table is held against."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record: bytes) -> bytes:
    """A record as TensorFlow writes it."""
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


# ---- tfrecord


def test_the_checksum_has_the_published_values():
    # RFC 3720, B.4; the last is the check value of CRC-32C
    for data, crc in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (b"123456789", 0xE3069283)):
        assert crc32c(data) == crc
        assert struct.pack("<I", prepared.masked_crc32c(data)) == masked(data)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 4095, 4096, 4097, 4099, 12_345])
def test_the_checksum_of_any_length(size):
    data = np.random.default_rng(size).bytes(size)
    assert struct.pack("<I", prepared.masked_crc32c(data)) == masked(data)


RECORDS = [b"one", b"", b"a longer record" * 400]


def test_records_are_read_as_they_were_written(tmp_path):
    file = tmp_path / "set.tfrecord"
    file.write_bytes(b"".join(map(framed, RECORDS)))
    assert list(prepared.tfrecords(file, 3)) == RECORDS


def test_every_cut_and_every_flipped_bit_is_named(tmp_path):
    file, whole = tmp_path / "set.tfrecord", b"".join(map(framed, (b"one", b"two")))
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(
            ValueError, match=rf"set\.tfrecord: found (an end within record {end // 19}|{end // 19} rec)"
        ):
            list(prepared.tfrecords(file, 2))
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"set\.tfrecord: found a wrong checksum in record {bit // 8 // 19}"):
            list(prepared.tfrecords(file, 2))


def test_a_record_too_many_is_named(tmp_path):
    (tmp_path / "set.tfrecord").write_bytes(b"".join(map(framed, RECORDS)))
    with pytest.raises(ValueError, match=r"set\.tfrecord: found 3 records, expected 2"):
        list(prepared.tfrecords(tmp_path / "set.tfrecord", 2))


# ---- arrays in a file

ARRAYS = {"text": np.frombuffer(b'["a", "b"]', np.uint8), "label": np.array([1, 0], np.int32)}


def refuse():
    raise AssertionError("made again")


def test_arrays_are_made_once(tmp_path):
    file = tmp_path / "kept.npz"
    assert prepared.kept(file, lambda: ARRAYS) is ARRAYS
    again = prepared.kept(file, refuse)
    assert again.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(again[name], array, strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]


def test_a_damaged_file_is_named_and_never_used(tmp_path):
    file = tmp_path / "kept.npz"
    prepared.kept(file, lambda: ARRAYS)
    whole, named = file.read_bytes(), 0
    for broken in (
        *(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(len(whole))),
        *(whole[:end] for end in range(0, len(whole), 50)),
    ):
        file.write_bytes(broken)
        try:
            arrays = prepared.kept(file, refuse)
        except ValueError as error:
            assert str(error).startswith(f"{file}: found ") and "delete it to rebuild it" in str(error)
            named += 1
        else:  # a byte that zip does not use, such as a date's
            assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in (*ARRAYS, *arrays))
    assert named > len(whole) / 2


def test_what_another_program_wrote_whole_is_not_believed(tmp_path):
    file = tmp_path / "kept.npz"
    prepared.kept(file, lambda: ARRAYS)
    with np.load(file) as stored:
        np.savez(file, **{**stored, "label": np.array([0, 0], np.int32)})
    with pytest.raises(ValueError, match=r"kept\.npz: found arrays of SHA-256 [0-9a-f]{12}, expected [0-9a-f]{12}"):
        prepared.kept(file, refuse)


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"kept\.npz cannot be written .* decoded again every time"):
        assert prepared.kept(tmp_path / "absent" / "kept.npz", lambda: ARRAYS) is ARRAYS
