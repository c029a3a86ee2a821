from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch

from surgery.checkpoint import writer as writer_module
from surgery.checkpoint.layout import lay_out
from surgery.checkpoint.safetensors import SafetensorsCheckpoint
from surgery.checkpoint.writer import SafetensorsWriter
from surgery.errors import CheckpointError, ResourceError
from surgery.tensors import TensorSpec, tag_of

SPECS = [TensorSpec("a", (100,), "F32"), TensorSpec("b", (300,), "U8")]


def _write(folder, tensors, shard_size):
    """Write tensors the way the engine does; return the writer, finished and closed."""
    specs = [TensorSpec(n, tuple(t.shape), tag_of(str(t.dtype))) for n, t in tensors.items()]
    writer = SafetensorsWriter(folder, lay_out(specs, shard_size))
    writer.create()
    for name, tensor in tensors.items():
        writer.write_at(name, 0, memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    writer.finish()
    writer.close()
    return writer


def _fail(number, on=lambda *_: True):
    def call(*arguments):
        if on(*arguments):
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("shard_size", [10, 200, 10**9])
def test_the_library_and_we_read_what_was_written(tmp_path, every_dtype, bytes_of, whole, shard_size):
    tensors = every_dtype | {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}
    layout = _write(tmp_path, tensors, shard_size).layout
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [shard.file for shard in layout.shards]
    theirs = {}
    for file in files:
        theirs |= safetensors.torch.load_file(tmp_path / file)
    ours = SafetensorsCheckpoint(tmp_path)
    assert set(theirs) == set(ours.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert bytes_of(theirs[name]) == whole(ours, name) == bytes_of(tensor)
        assert theirs[name].shape == tensor.shape
        assert theirs[name].dtype == tensor.dtype


def test_an_index_is_written_only_for_several_shards(tmp_path):
    tensors = {"a": torch.zeros(4), "b": torch.zeros(4)}
    _write(tmp_path / "one", tensors, 100)
    assert sorted(os.listdir(tmp_path / "one")) == ["model.safetensors"]
    layout = _write(tmp_path / "two", tensors, 16).layout
    index = tmp_path / "two" / "model.safetensors.index.json"
    assert index.read_bytes() == layout.index_json
    assert set(json.loads(index.read_text())["weight_map"].values()) == set(os.listdir(tmp_path / "two")) - {
        index.name
    }


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    tensors = {"a": torch.arange(4.0), "b": torch.arange(9)}
    for folder in ("x", "y"):
        _write(tmp_path / folder, tensors, 50)
    for path in (tmp_path / "x").iterdir():
        assert path.read_bytes() == (tmp_path / "y" / path.name).read_bytes()


def test_files_have_their_full_size_and_the_users_permissions_from_the_start(tmp_path):
    before = os.umask(0o027)
    try:
        layout = lay_out(SPECS, 400)
        writer = SafetensorsWriter(tmp_path, layout)
        writer.create()
    finally:
        os.umask(before)
    for shard in layout.shards:
        status = (tmp_path / shard.file).stat()
        assert (status.st_size, stat.S_IMODE(status.st_mode)) == (shard.size, 0o640)
        assert status.st_blocks * 512 >= shard.size
    assert len(os.listdir(tmp_path)) == len(layout.shards) == 2
    writer.close()


def test_a_run_that_was_killed_is_taken_up(tmp_path):
    code = (
        "import os; from pathlib import Path; from surgery.checkpoint.layout import lay_out;"
        "from surgery.checkpoint.writer import SafetensorsWriter; from surgery.tensors import TensorSpec;"
        "specs = [TensorSpec('a', (100,), 'F32'), TensorSpec('b', (300,), 'U8')];"
        f"writer = SafetensorsWriter(Path({str(tmp_path)!r}), lay_out(specs, 400)); writer.create();"
        "writer.write_at('b', 7, memoryview(b'kept')); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    layout = lay_out(SPECS, 400)
    writer = SafetensorsWriter(tmp_path, layout)
    assert writer.create() == {shard.file for shard in layout.shards}
    back = bytearray(6)
    writer.read_back("b", 6, memoryview(back))
    assert back == b"\0kept\0"
    writer.close()


@pytest.mark.parametrize("what", ["size", "header"])
def test_a_file_of_another_layout_is_replaced_and_the_others_kept(tmp_path, what):
    layout = lay_out(SPECS, 400)
    SafetensorsWriter(tmp_path, layout).create()
    path = tmp_path / layout.shards[0].file
    if what == "size":
        os.truncate(path, layout.shards[0].size + 1)
    else:
        with path.open("r+b") as file:
            file.write(b"\x07")
    writer = SafetensorsWriter(tmp_path, layout)
    assert writer.create() == {layout.shards[1].file}
    assert path.read_bytes() == layout.shards[0].header + bytes(400)
    writer.close()


def test_a_file_that_was_not_made_to_its_end_is_made_anew(tmp_path):
    layout = lay_out(SPECS, 10**6)
    (tmp_path / "model.safetensors.new").write_bytes(b"half a header")
    writer = SafetensorsWriter(tmp_path, layout)
    assert writer.create() == frozenset()
    assert os.listdir(tmp_path) == ["model.safetensors"]
    writer.close()


def test_a_disk_that_is_too_small_is_found_before_work_and_nothing_is_left(tmp_path, monkeypatch):
    layout = lay_out(SPECS, 400)
    allocate = os.posix_fallocate
    sizes = [shard.size for shard in layout.shards]
    fail = _fail(errno.ENOSPC, lambda _, __, size: size == sizes[1])

    def second_fails(*arguments):
        fail(*arguments)
        allocate(*arguments)

    monkeypatch.setattr(os, "posix_fallocate", second_fails)
    monkeypatch.setattr(SafetensorsWriter, "_available", lambda self: 3 * 2**20)
    with pytest.raises(ResourceError) as caught:
        SafetensorsWriter(tmp_path, layout).create()
    assert str(caught.value) == (
        f"{tmp_path}: the disk is too small: the output needs {sum(sizes)} B, 3.0 MiB are available;"
        " free some space or write elsewhere"
    )
    assert os.listdir(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path):
    """Mount a file system of 1 MiB; skip where that is not allowed."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_real_disk_that_is_too_small_is_found_before_work(tiny_disk):
    layout = lay_out([TensorSpec("a", (600_000,), "U8"), TensorSpec("b", (600_000,), "U8")], 600_000)
    with pytest.raises(ResourceError) as caught:
        SafetensorsWriter(tiny_disk / "out", layout).create()
    assert str(caught.value) == (
        f"{tiny_disk / 'out'}: the disk is too small: the output needs 1.1 MiB, 1.0 MiB are available;"
        " free some space or write elsewhere"
    )
    assert os.listdir(tiny_disk / "out") == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_blocks_cannot_be_reserved_sizes_are_compared(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "posix_fallocate", _fail(number))
    layout = lay_out(SPECS, 10**6)
    writer = SafetensorsWriter(tmp_path, layout)
    writer.create()
    assert (tmp_path / "model.safetensors").stat().st_size == layout.shards[0].size
    writer.close()
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(SafetensorsWriter, "_available", lambda self: layout.shards[0].size - 1)
    with pytest.raises(ResourceError, match="the disk is too small: the output needs "):
        SafetensorsWriter(tmp_path, layout).create()


def test_a_system_without_fallocate_and_fdatasync_is_served(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(writer_module, "sync_data", os.fsync)
    _write(tmp_path, {"a": torch.ones(3)}, 100)
    assert safetensors.torch.load_file(tmp_path / "model.safetensors")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "No space left on device; free some space or write elsewhere"),
        (errno.EDQUOT, "Disk quota exceeded; raise the quota or write elsewhere"),
        (errno.EIO, "Input/output error; check the disk, then run again: what is finished is kept"),
        (errno.EROFS, "Read-only file system; write elsewhere"),
        (errno.EFBIG, "File too large; the file system takes no file of this size: lower output.shard_size"),
    ],
)
def test_what_the_device_refuses_is_a_resource_error_with_advice(tmp_path, monkeypatch, number, what):
    writer = SafetensorsWriter(tmp_path, lay_out(SPECS, 10**6))
    writer.create()
    monkeypatch.setattr(os, "pwrite", _fail(number))
    monkeypatch.setattr(writer_module, "sync_data", _fail(number))
    expected = f"{tmp_path / 'model.safetensors'}: cannot be written: {what}"
    with pytest.raises(ResourceError) as caught:
        writer.write_at("a", 0, memoryview(b"x"))
    assert str(caught.value) == expected
    with pytest.raises(ResourceError) as caught:
        writer.sync(["a"])
    assert str(caught.value) == expected
    writer.close()


def test_a_write_that_is_taken_in_parts_is_completed(tmp_path, monkeypatch):
    writer = SafetensorsWriter(tmp_path, lay_out(SPECS, 10**6))
    writer.create()
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:3], offset))
    writer.write_at("b", 0, memoryview(b"abcdefgh"))
    back = bytearray(8)
    writer.read_back("b", 0, memoryview(back))
    assert back == b"abcdefgh"
    writer.close()


def test_a_file_truncated_by_another_is_an_error(tmp_path):
    writer = SafetensorsWriter(tmp_path, lay_out(SPECS, 10**6))
    writer.create()
    path = tmp_path / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError) as caught:
        writer.read_back("b", 0, memoryview(bytearray(300)))
    assert str(caught.value) == (
        f"{path}: tensor `b`: the file ends at byte {path.stat().st_size}; run with --no-resume"
    )
    writer.close()


def test_writing_after_close_is_a_bug_of_the_caller(tmp_path):
    writer = SafetensorsWriter(tmp_path, lay_out(SPECS, 10**6))
    writer.create()
    writer.close()
    with pytest.raises(ValueError, match="is not open for writing"):
        writer.write_at("a", 0, memoryview(b"x"))


def test_files_that_were_deleted_are_closed_too_and_nobody_waits_for_their_blocks(tmp_path, monkeypatch):
    """Closing takes long, as where freeing blocks does: `close` returns while the deleted file is still open."""
    writer = SafetensorsWriter(tmp_path, lay_out(SPECS, 300))  # a file for each
    writer.create()
    descriptors = dict(writer._descriptors)
    assert len(descriptors) == 2
    deleted, kept = sorted(descriptors)
    (tmp_path / deleted).unlink()
    freed, close = threading.Event(), os.close
    monkeypatch.setattr(
        os, "close", lambda one: (freed.wait() if one == descriptors[deleted] else None, close(one))
    )
    writer.close()
    os.fstat(descriptors[deleted])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[kept])
    (thread,) = (one for one in threading.enumerate() if one.name == "freeing")
    freed.set()
    thread.join()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[deleted])


def test_where_no_thread_can_be_started_deleted_files_are_closed_at_once(tmp_path, monkeypatch):
    """So it is when the interpreter ends."""
    writer = SafetensorsWriter(tmp_path, lay_out(SPECS, 10**6))
    writer.create()
    ((file, descriptor),) = writer._descriptors.items()
    (tmp_path / file).unlink()

    def start(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    writer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError) as caught:
        SafetensorsWriter(tmp_path / "file" / "out", lay_out(SPECS, 10**6)).create()
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'out'}: cannot be written: Not a directory; write elsewhere"
    )
