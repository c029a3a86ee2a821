from __future__ import annotations

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from surgery.checkpoint import torch_zip
from surgery.checkpoint.base import Extent
from surgery.checkpoint.torch_zip import TorchZip
from surgery.errors import CheckpointError
from surgery.tensors import TensorSpec


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a state dict with torch and returns the path."""

    def save(state, **options):
        path = tmp_path / "m.bin"
        torch.save(state, path, **options)
        return path

    return save


def _refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        TorchZip(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_the_bytes_of_every_dtype_are_what_torch_wrote(saved, every_dtype, whole, bytes_of):
    tensors = every_dtype | {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}
    checkpoint = TorchZip(saved(tensors))
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert whole(checkpoint, name) == bytes_of(tensor)


def test_four_bit_tensors_have_the_shape_of_their_elements(saved, whole):
    codes = torch.arange(16, dtype=torch.uint8).reshape(4, 4)
    checkpoint = TorchZip(saved({"w": codes.view(torch.float4_e2m1fn_x2)}))
    assert checkpoint.tensors == {"w": TensorSpec("w", (4, 8), "F4")}
    assert whole(checkpoint, "w") == bytes(range(16))


def test_views_are_gathered_into_contiguous_bytes(saved, whole, bytes_of):
    base = torch.arange(240, dtype=torch.int32).reshape(2, 3, 8, 5)
    views = {
        "transposed": base[0, 0].t(),
        "permuted": base.permute(3, 1, 0, 2),
        "steps": base[:, ::2, 1::3],
        "repeated": base[:, :, :, :1].expand(2, 3, 8, 4),
        "rows": base[1],
        "bfloat16": torch.arange(12.0).bfloat16().reshape(3, 4).t(),
    }
    checkpoint = TorchZip(saved(views))
    for name, view in views.items():
        assert whole(checkpoint, name) == bytes_of(view), name
        assert (checkpoint.extent(name) is None) == (not view.is_contiguous()), name


def test_tensors_that_are_the_same_view_are_aliases_of_the_first(saved):
    base = torch.arange(6.0)
    state = {
        "embed": base,
        "head": torch.nn.Parameter(base),
        "part": base[:3],
        "shape": base.reshape(2, 3),
        "column": base.reshape(6, 1),
        "odd": base.as_strided((6, 1), (1, 7)),
        "t1": base.reshape(2, 3).t(),
        "t2": base.reshape(2, 3).t(),
        "other": base.clone(),
    }
    checkpoint = TorchZip(saved(state))
    assert checkpoint.aliases == {"head": "embed", "odd": "column", "t2": "t1"}
    assert list(checkpoint.tensors) == ["embed", "part", "shape", "column", "t1", "other"]


def test_an_extent_is_where_the_bytes_lie(saved):
    path = saved({"v": torch.arange(3.0), "w": torch.arange(4.0)[1:]})
    extent = TorchZip(path).extent("w")
    assert extent == Extent(str(path), path.read_bytes().index(torch.arange(4.0).numpy().tobytes()) + 4, 12)


def test_a_storage_larger_than_its_tensor_is_not_counted(saved):
    checkpoint = TorchZip(saved({"w": torch.zeros(1000)[:2]}))
    assert checkpoint.tensors["w"].nbytes == 8


def test_an_archive_written_by_another_program_is_read(saved, rezip, whole):
    path = rezip(saved({"w": torch.arange(3.0)}), {})
    assert whole(TorchZip(path), "w") == torch.arange(3.0).numpy().tobytes()


def test_many_threads_gather_the_same_bytes_as_one(saved, bytes_of):
    base = torch.randn(64, 48)
    checkpoint = TorchZip(saved({"w": base.t()}))
    want = bytes_of(base.t())

    def read(start):
        data = bytearray(100)
        checkpoint.prefetch("w", start, 100)
        checkpoint.read_into("w", start, memoryview(data))
        return bytes(data) == want[start : start + 100]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, len(want) - 100, 37)))


def test_compressed_entries_are_refused_as_bombs(saved, rezip):
    path = rezip(saved({"w": torch.zeros(1 << 20)}), {}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000
    assert torch.load(path, weights_only=True)["w"].nbytes == 4 << 20
    assert _refusal(path) == (
        "entry `byteorder` is compressed or encrypted, which torch.save never does;"
        " it may be a decompression bomb"
    )


def test_a_single_compressed_storage_is_refused(saved):
    path = saved({"w": torch.zeros(1 << 20)})
    with zipfile.ZipFile(path) as archive:
        entries = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in entries.items():
            info.compress_type = zipfile.ZIP_DEFLATED if "data/0" in info.filename else zipfile.ZIP_STORED
            archive.writestr(info, data)
    assert _refusal(path).startswith("entry `data/0` is compressed or encrypted")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data/0": None}, "has no entry `data/0`; the file is damaged"),
        (
            {"data/0": bytes(11)},
            "tensor `w`: needs 12 bytes of storage `0`, which has 11; the file is damaged",
        ),
        ({"data.pkl": None}, "is a zip archive with 0 data.pkl, torch.save writes one"),
        ({"x/data.pkl": b""}, "is a zip archive with 2 data.pkl, torch.save writes one"),
        ({"byteorder": b"big"}, "was written on a big-endian machine; convert it there"),
    ],
)
def test_archives_that_lack_or_contradict_something_are_refused(saved, rezip, changes, what):
    assert _refusal(rezip(saved({"w": torch.arange(3.0)}), changes)) == what


def test_a_view_that_exceeds_its_storage_is_refused(saved, rezip):
    path = saved({"w": torch.arange(3.0)})
    with zipfile.ZipFile(path) as archive:
        data = archive.read("m/data.pkl")
    shape = b"K\x03\x85"  # the tuple (3,)
    assert data.count(shape) == 1
    rezip(path, {"data.pkl": data.replace(shape, b"K\x04\x85")})
    assert _refusal(path) == "tensor `w`: needs 16 bytes of storage `0`, which has 12; the file is damaged"


def test_a_pickle_above_the_limit_is_not_read(saved, monkeypatch):
    path = saved({"w": torch.zeros(1)})
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("m/data.pkl").file_size
    monkeypatch.setattr(torch_zip, "MAX_PICKLE", size)
    TorchZip(path)
    monkeypatch.setattr(torch_zip, "MAX_PICKLE", size - 1)
    assert _refusal(path) == f"entry `data.pkl` has {size} bytes, at most {size - 1} are read"


def test_an_entry_that_claims_more_than_the_file_holds_is_refused(saved):
    path = saved({"w": torch.zeros(1)})
    data = bytearray(path.read_bytes())
    record = data.rindex(b"m/data.pkl") - 46  # in the central directory
    data[record + 20 : record + 28] = (10**9).to_bytes(4, "little") * 2
    path.write_bytes(data)
    assert _refusal(path) == "entry `data.pkl` is not at byte 0; the file is damaged"


def test_an_archive_cut_off_anywhere_is_refused(saved):
    path = saved({"w": torch.arange(3.0)})
    data = path.read_bytes()
    for length in reversed(range(4, len(data), 7)):
        os.truncate(path, length)
        assert "is a damaged zip archive: " in _refusal(path), length


def test_a_changed_byte_never_raises_anything_but_a_checkpoint_error(saved):
    path = saved({"w": torch.arange(3.0), "v": torch.nn.Parameter(torch.zeros(2, 2).t())})
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 0xFF
        path.write_bytes(data)
        try:
            TorchZip(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_an_entry_listed_twice_is_refused(saved):
    path = saved({"w": torch.arange(3.0)})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m/data/0", bytes(12))
    assert _refusal(path) == "is a zip archive that lists an entry twice"


def test_a_script_module_is_refused_with_what_it_names(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/data.pkl", b"\x80\x02c__torch__\nNet\n)\x81.")
    assert _refusal(path).startswith("holds more than tensors: it names `__torch__.Net`, and nothing")


def test_an_identity_changes_with_the_file_and_the_place(saved, tmp_path):
    path = saved({"v": torch.ones(2), "w": torch.ones(2)})
    first = TorchZip(path)
    assert first.identity("w") != first.identity("v")
    assert TorchZip(path).identity("w") == first.identity("w")
    os.utime(path, ns=(0, 1))
    assert TorchZip(path).identity("w") != first.identity("w")


def test_reading_outside_a_tensor_and_after_close_are_bugs_of_the_caller(saved):
    checkpoint = TorchZip(saved({"w": torch.ones(2), "v": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"^w: bytes 4 to 9 of 8$"):
        checkpoint.read_into("w", 4, memoryview(bytearray(5)))
    checkpoint.close()
    with pytest.raises(ValueError, match="read after close"):
        checkpoint.read_into("w", 0, memoryview(bytearray(1)))
