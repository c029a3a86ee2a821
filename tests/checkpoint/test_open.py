from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from surgery.checkpoint.base import Format, Scheme
from surgery.checkpoint.memory import MemoryCheckpoint, register_memory
from surgery.checkpoint.open import BUILTIN_FORMATS, open_checkpoint
from surgery.checkpoint.safetensors import SafetensorsCheckpoint
from surgery.checkpoint.torch_bin import TorchCheckpoint
from surgery.errors import CheckpointError


@pytest.fixture
def model(tmp_path):
    """Write a one-tensor model into `tmp_path/models/base`; return `tmp_path`."""
    folder = tmp_path / "models" / "base"
    folder.mkdir(parents=True)
    save_file({"w": torch.ones(1)}, folder / "model.safetensors")
    return tmp_path


def _refusal(source, folder, **more) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, folder, **more)
    return str(caught.value)


@pytest.mark.parametrize("source", ["./models/base", "models/base", "models/base/model.safetensors"])
def test_a_path_is_relative_to_the_folder(model, source, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    checkpoint = open_checkpoint(source, model)
    assert isinstance(checkpoint, SafetensorsCheckpoint)
    assert checkpoint.location == source


def test_absolute_paths_and_the_home_folder_are_paths(model, monkeypatch):
    monkeypatch.setenv("HOME", str(model))
    elsewhere = Path("/nowhere")
    assert list(open_checkpoint(str(model / "models/base"), elsewhere).tensors) == ["w"]
    assert list(open_checkpoint("~/models/base", elsewhere).tensors) == ["w"]
    assert _refusal("~nobody_of_this_name/x", elsewhere).startswith("~nobody_of_this_name/x: ")


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.pth"])
def test_pickles_are_known_by_their_suffix(tmp_path, name):
    torch.save({"w": torch.ones(1)}, tmp_path / name)
    assert isinstance(open_checkpoint(name, tmp_path), TorchCheckpoint)


def test_safetensors_win_over_pickles_in_one_folder(model):
    torch.save({"v": torch.ones(1)}, model / "models/base/pytorch_model.bin")
    assert list(open_checkpoint("models/base", model).tensors) == ["w"]
    (model / "models/base/model.safetensors").unlink()
    assert list(open_checkpoint("models/base", model).tensors) == ["v"]


def test_formats_and_schemes_of_plugins_are_asked_first(model):
    mine = MemoryCheckpoint({"mine": np.ones(1)})
    everything = Format("mine", lambda path: path.name == "base", lambda path: mine)
    assert open_checkpoint("models/base", model, formats=[everything]) is mine
    asked = []
    scheme = Scheme("gguf", lambda rest, folder: asked.append((rest, folder)) or mine)
    checkpoint = open_checkpoint("gguf:./a:b.gguf", model, schemes=[scheme])
    assert checkpoint is mine
    assert checkpoint.location == "gguf:./a:b.gguf"
    assert asked == [("./a:b.gguf", model)]
    assert open_checkpoint("memory:x", model, schemes=[Scheme("memory", lambda *_: mine)]) is mine


def test_memory_is_a_scheme_without_plugins(tmp_path):
    checkpoint = MemoryCheckpoint({"w": np.ones(1)})
    register_memory("test_open", checkpoint)
    assert open_checkpoint("memory:test_open", tmp_path) is checkpoint


def test_an_unknown_scheme_is_an_error_with_those_that_are_known(tmp_path):
    assert _refusal("gguf:m.gguf", tmp_path) == (
        "gguf:m.gguf: no plugin reads the scheme `gguf:`; known: `memory`"
    )


def test_a_path_with_a_colon_is_a_path(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "a:b.safetensors")
    save_file({"w": torch.ones(1)}, tmp_path / "memory:x.safetensors")
    assert list(open_checkpoint("memory:x.safetensors", tmp_path).tensors) == ["w"]


def test_a_missing_path_is_an_error_with_what_is_near(model):
    assert _refusal("./models/bse", model) == (
        "./models/bse: there is no such file or folder; did you mean `base`?"
    )
    assert _refusal("./missing/base", model) == "./missing/base: there is no such file or folder"


@pytest.mark.parametrize(
    ("names", "got"),
    [
        ([], "it is empty"),
        (["a.gguf", "b.gguf", "README.md", "LICENSE"], "got 2 `*.gguf`, 1 `LICENSE`, 1 `*.md`"),
        (["optimizer.bin"], "got 1 `*.bin`"),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(tmp_path, names, got):
    for name in names:
        (tmp_path / name).touch()
    assert _refusal(str(tmp_path), Path("/")) == (
        f"{tmp_path}: has no weights in a known format, {got};"
        " give a folder with `*.safetensors` or `pytorch_model.bin`, or the file itself"
    )


def test_a_pipeline_says_which_of_its_folders_hold_models(tmp_path):
    for part in ("scheduler", "unet", "vae"):
        (tmp_path / part).mkdir()
    (tmp_path / "model_index.json").touch()
    for part in ("unet", "vae"):
        (tmp_path / part / "diffusion_pytorch_model.safetensors").touch()
    assert _refusal(str(tmp_path), Path("/")) == (
        f"{tmp_path}: has no weights in a known format, got 1 `*.json`, 1 `scheduler`, 1 `unet`, 1 `vae`;"
        f" give the part that is meant: `{tmp_path / 'unet'}` or `{tmp_path / 'vae'}`"
    )


def test_a_file_of_an_unknown_format_is_an_error(tmp_path):
    (tmp_path / "m.gguf").touch()
    message = f"{tmp_path / 'm.gguf'}: is in no known format; known: safetensors, torch"
    assert _refusal("m.gguf", tmp_path) == message


@pytest.fixture
def remote(model):
    """A scheme that claims `org/name`, notes what it is asked for, and opens a folder or refuses."""
    asked = []

    def opened(rest, folder):
        asked.append((rest, folder))
        if rest.endswith("gone"):
            raise CheckpointError(f"{rest}: is gone; look elsewhere")
        return model / "models" / "base"

    scheme = Scheme("far", opened, claims=lambda source: source.count("/") == 1)
    return scheme, asked


def test_what_is_no_path_is_offered_to_the_scheme_that_claims_it(tmp_path, remote):
    scheme, asked = remote
    checkpoint = open_checkpoint("org/name", tmp_path, schemes=[scheme])
    assert (list(checkpoint.tensors), checkpoint.location) == (["w"], "org/name")
    assert asked == [("org/name", tmp_path)]


def test_a_scheme_may_return_a_path_which_its_format_opens(tmp_path, remote):
    scheme, asked = remote
    assert list(open_checkpoint("far:org/name/x", tmp_path, schemes=[scheme]).tensors) == ["w"]
    assert asked == [("org/name/x", tmp_path)]


@pytest.mark.parametrize("source", ["./name", "/name", "~/name", "name", "org/name/file", "../name"])
def test_what_begins_like_a_path_or_is_not_claimed_is_never_offered(tmp_path, remote, source):
    scheme, asked = remote
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(source, tmp_path, schemes=[scheme])
    assert str(error.value).startswith(f"{source}: there is no such file or folder")
    assert asked == []


def test_a_path_that_exists_is_never_offered(model, remote):
    scheme, asked = remote
    assert list(open_checkpoint("models/base", model, schemes=[scheme]).tensors) == ["w"]
    assert asked == []


def test_without_a_scheme_that_claims_it_there_is_nothing(tmp_path):
    assert _refusal("org/name", tmp_path) == "org/name: there is no such file or folder"


def test_a_refusal_goes_with_local_names_that_are_near(model, remote):
    scheme, _ = remote
    (model / "models" / "gon").mkdir()
    with pytest.raises(CheckpointError) as error:
        open_checkpoint("models/gone", model, schemes=[scheme])
    assert (
        str(error.value)
        == "models/gone: is gone; look elsewhere; if a path is meant: `gone` is not there; did you mean `gon`?"
    )


def test_a_path_that_the_system_cannot_look_up_is_an_error(tmp_path):
    assert _refusal("./" + "x" * 300, tmp_path) == (
        f"./{'x' * 198}: cannot be read: File name too long; check the path"
    )


def test_opening_safetensors_imports_no_torch(model):
    code = (
        "import sys; from pathlib import Path; from surgery.checkpoint.open import open_checkpoint\n"
        f"checkpoint = open_checkpoint('models/base', Path({str(model)!r}))\n"
        "data = bytearray(4); checkpoint.read_into('w', 0, memoryview(data))\n"
        "assert data == b'\\0\\0\\x80\\x3f' and 'torch' not in sys.modules, data"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_opening_a_pickle_of_the_modern_format_imports_no_torch(tmp_path):
    torch.save({"w": torch.ones(2, 2).t()}, tmp_path / "m.bin")
    code = (
        "import sys; from pathlib import Path; from surgery.checkpoint.open import open_checkpoint\n"
        f"checkpoint = open_checkpoint('m.bin', Path({str(tmp_path)!r}))\n"
        "data = bytearray(16); checkpoint.read_into('w', 0, memoryview(data))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)


def test_the_built_in_formats_have_names():
    assert [candidate.name for candidate in BUILTIN_FORMATS] == ["safetensors", "torch"]
