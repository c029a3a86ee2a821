from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from surgery.checkpoint.files import LocalFile, Stamp, fingerprint
from surgery.errors import CheckpointError


def _read(file: LocalFile, offset: int, count: int) -> bytes:
    data = bytearray(count)
    file.read_into(offset, memoryview(data), "tensor `w`")
    return bytes(data)


def test_reads_at_any_offset_from_many_threads(tmp_path):
    data = bytes(os.urandom(1 << 16))
    (tmp_path / "f").write_bytes(data)
    file = LocalFile(tmp_path / "f")
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: _read(file, i * 64, 64), range(1024)))
    assert b"".join(parts) == data


def test_a_read_that_comes_in_parts_is_completed(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"abcdefgh")
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:3]], offset))
    assert _read(LocalFile(tmp_path / "f"), 1, 7) == b"bcdefgh"


def test_a_buffer_of_another_type_is_filled_with_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"\x01\0\0\0\x02\0\0\0")
    buffer = memoryview(bytearray(8)).cast("I", (2, 1))
    LocalFile(tmp_path / "f").read_into(0, buffer, "w")
    assert buffer.tolist() == [[1], [2]]


def test_a_file_that_is_too_short_is_an_error_that_names_tensor_and_byte(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    with pytest.raises(CheckpointError) as caught:
        _read(LocalFile(path), 1, 9)
    assert str(caught.value) == (
        f"{path}: tensor `w` is cut off: the file ends at byte 3, 7 bytes are missing; fetch the file again"
    )


def test_a_disk_that_fails_is_an_error_that_names_tensor_and_byte(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"abc")

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(CheckpointError) as caught:
        _read(LocalFile(path), 1, 1)
    assert str(caught.value) == f"{path}: tensor `w` cannot be read at byte 1: Input/output error"


def test_a_file_that_changed_since_its_header_was_read_is_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    stamp = LocalFile(path).stamp()
    assert stamp.size == 3
    os.utime(path, ns=(0, stamp.mtime_ns + 1))
    with pytest.raises(CheckpointError) as caught:
        _read(LocalFile(path, stamp), 0, 1)
    assert str(caught.value) == (
        f"{path}: was changed after its header was read; run again when nothing writes to it"
    )


def test_what_is_no_regular_file_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, path in (("pipe", tmp_path / "pipe"), ("folder", tmp_path)):
        with pytest.raises(CheckpointError) as caught:
            LocalFile(path).stamp()
        assert str(caught.value) == (
            f"{path}: is not a regular file; name a weight file or a folder of them"
        ), name


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        LocalFile(tmp_path / "f").stamp()
    assert str(caught.value) == f"{tmp_path / 'f'}: there is no such file"


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError) as caught:
        LocalFile(path).first_bytes(8)
    assert str(caught.value) == f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull`"


@pytest.mark.parametrize(("data", "first"), [(b"", b""), (b"abc", b"abc"), (b"x" * 100, b"xxxx")])
def test_the_first_bytes_of_a_short_file_are_all_of_it(tmp_path, data, first):
    (tmp_path / "f").write_bytes(data)
    assert LocalFile(tmp_path / "f").first_bytes(4) == first


def test_reading_after_close_is_a_bug_of_the_caller(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    file = LocalFile(path)
    _read(file, 0, 1)
    file.close()
    file.close()
    with pytest.raises(ValueError, match="read after close"):
        _read(file, 0, 1)


def test_prefetch_never_fails(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    LocalFile(tmp_path / "f").prefetch(0, 3)
    LocalFile(tmp_path / "f").prefetch(1 << 40, 3)
    LocalFile(tmp_path / "missing").prefetch(0, 3)


def test_a_forgotten_file_gives_its_descriptor_back(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    before = len(os.listdir("/proc/self/fd"))
    files = [LocalFile(tmp_path / "f") for _ in range(5)]
    assert [file.stamp().size for file in files] == [3] * 5
    assert len(os.listdir("/proc/self/fd")) == before + 5
    del files
    assert len(os.listdir("/proc/self/fd")) == before


def test_two_files_that_agree_in_all_but_the_inode_have_two_fingerprints(tmp_path):
    digests = set()
    for folder in ("a", "b"):
        path = tmp_path / folder / "model.safetensors"
        path.parent.mkdir()
        path.write_bytes(b"abc")
        os.utime(path, ns=(0, 0))
        digests.add(fingerprint(path, LocalFile(path).stamp(), b"header", "w", 0, 3))
    assert len(digests) == 2


def test_a_fingerprint_depends_on_everything_but_the_folder(tmp_path):
    stamp = Stamp(3, 5, 7)
    same = fingerprint(tmp_path / "f", stamp, b"h", "w", 0, 3)
    assert len(same) == 16
    assert fingerprint(tmp_path / "elsewhere" / "f", stamp, b"h", "w", 0, 3) == same
    others = [
        fingerprint(tmp_path / "g", stamp, b"h", "w", 0, 3),
        fingerprint(tmp_path / "f", Stamp(4, 5, 7), b"h", "w", 0, 3),
        fingerprint(tmp_path / "f", Stamp(3, 6, 7), b"h", "w", 0, 3),
        fingerprint(tmp_path / "f", stamp, b"i", "w", 0, 3),
        fingerprint(tmp_path / "f", stamp, b"h", "v", 0, 3),
        fingerprint(tmp_path / "f", stamp, b"h", "w", 1, 3),
    ]
    assert len({same, *others}) == 7
