"""Nothing half-written ever looks finished, and nothing finished is replaced unasked."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from surgery import PlanError, ResourceError, RunOptions
from surgery.execute import publish as publishing

CPU = RunOptions(device="cpu", threads=1)
SCALE = {"m": {"op": "toy.scale", "model": "a", "factor": 2}}
FILES = ["README.md", "model.safetensors", "report.json", "surgery.json"]
SLOW = {"m": {"op": "toy.slow", "model": "a", "seconds": 0.02}}


@pytest.fixture
def one(shop):
    shop.save("a", {f"w{i}": torch.randn(500) for i in range(10)})
    return shop


def left(shop) -> set[str]:
    return {path.name for path in shop.folder.iterdir() if path.name.startswith("out")}


def test_nothing_is_at_the_outputs_place_before_the_end(one):
    seen = []
    one.recipe(SLOW).run(CPU, listener=lambda progress: seen.append((progress.done, left(one))))
    assert len(seen) > 1
    assert all(names == {"out.partial"} for _, names in seen)
    assert left(one) == {"out"}


def test_no_working_file_is_left_in_a_finished_output(one):
    one.run(SCALE)
    assert sorted(path.name for path in (one.folder / "out").iterdir()) == FILES


def test_an_output_that_is_there_is_not_replaced_unasked(one):
    one.run(SCALE)
    before = one.data()
    with pytest.raises(PlanError) as error:
        one.run(SLOW)
    assert str(error.value) == (
        f"<recipe>:11:7: output.to: {one.folder / 'out'} exists and is not empty; "
        "choose another folder or pass --force"
    )
    assert one.data() == before
    assert left(one) == {"out"}


def test_an_empty_folder_is_filled(one):
    (one.folder / "out").mkdir()
    assert one.run(SCALE).keys() == one.read("a").keys()


def test_force_replaces_an_output_as_a_whole(one):
    small = {"output": {"model": "m", "to": "./out", "shard_size": 5000}}
    one.recipe(SCALE, **small).run(CPU)
    (one.folder / "out" / "notes.txt").write_text("mine")
    assert len(one.data()) == 5
    one.run(SCALE, RunOptions(device="cpu", force=True))
    assert sorted(path.name for path in (one.folder / "out").iterdir()) == FILES
    assert left(one) == {"out"}


def test_an_output_that_is_to_be_replaced_stays_until_the_end(one):
    one.run(SCALE)
    before = one.data()
    seen = []
    recipe = one.recipe(SLOW)
    recipe.run(RunOptions(device="cpu", force=True, threads=1), listener=lambda _: seen.append(one.data()))
    assert seen
    assert all(data == before for data in seen)
    assert one.data() != {}


def test_a_run_that_fails_leaves_what_it_was_to_replace(one):
    one.run(SCALE)
    before = one.data()
    bad = {"m": {"op": "toy.bad", "model": "a", "how": "raise", "where": "w9"}}
    with pytest.raises(Exception, match="ZeroDivisionError"):
        one.run(bad, RunOptions(device="cpu", force=True))
    assert one.data() == before


def test_what_appears_during_the_run_is_not_replaced(one):
    def meddle(_) -> None:
        (one.folder / "out").mkdir(exist_ok=True)
        (one.folder / "out" / "other").touch()

    with pytest.raises(ResourceError) as error:
        one.recipe(SLOW).run(CPU, listener=meddle)
    assert str(error.value) == (
        f"{one.folder / 'out'}: appeared while the run was going on; move it away and run again"
    )
    assert left(one) == {"out", "out.partial"}
    (one.folder / "out" / "other").unlink()
    one.run(SLOW)
    assert one.report.resumed == 10


def test_two_runs_at_once_do_not_write_to_one_folder(one):
    begun, errors = threading.Event(), []
    other = one.recipe(SLOW).resolve()

    def second() -> None:
        begun.wait()
        try:
            other.run(CPU)
        except ResourceError as error:
            errors.append(str(error))

    thread = threading.Thread(target=second)
    thread.start()
    one.recipe(SLOW).run(CPU, listener=lambda _: begun.set())
    thread.join()
    partial = one.folder / "out.partial"
    assert errors == [f"{partial}: another run is writing here; wait for it, or write somewhere else"]
    assert all(torch.equal(one.read()[name], w * 2) for name, w in one.read("a").items())


def test_several_outputs_are_published_together(one):
    outputs = {name: {"model": "m", "to": f"./out-{name}"} for name in "xy"}
    seen = []
    one.recipe(SLOW, outputs=outputs).run(CPU, listener=lambda _: seen.append(left(one)))
    assert all(names == {"out-x.partial", "out-y.partial"} for names in seen)
    assert left(one) == {"out-x", "out-y"}
    assert one.data("out-x") == one.data("out-y")


def test_a_kill_between_the_two_renames_loses_nothing(one, monkeypatch):
    one.run(SCALE)
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name == "out.partial":
            raise KeyboardInterrupt
        return rename(self, target)

    force = RunOptions(device="cpu", force=True)
    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        one.run(SLOW, force)
    monkeypatch.undo()
    assert left(one) == {"out.partial"}
    one.run(SLOW, force)
    assert one.report.resumed == 10
    assert sorted(path.name for path in (one.folder / "out").iterdir()) == FILES


def test_ctrl_c_is_held_back_while_outputs_are_renamed(one, monkeypatch):
    rename = publishing._rename
    arrived = []

    def interrupted(sink, *, force: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        arrived.append(left(one))
        rename(sink, force=force)

    monkeypatch.setattr(publishing, "_rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.run(SCALE)
    assert arrived == [{"out.partial"}]
    assert left(one) == {"out"}


def test_what_the_system_says_about_publishing_is_told(one, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing.shutil, "copyfile", full)
    (one.folder / "a" / "tokenizer.json").write_text("{}")
    with pytest.raises(ResourceError) as error:
        one.run(SCALE)
    assert str(error.value) == (
        f"{one.folder / 'out'}: cannot be published: No space left on device; "
        f"what is computed stays in {one.folder / 'out.partial'}, run again"
    )
    monkeypatch.undo()
    one.run(SCALE)
    assert one.report.resumed == 10


def test_a_tensor_that_was_never_written_is_never_published(one, monkeypatch):
    monkeypatch.setattr("surgery.execute.run.share", lambda jobs, here: jobs[1:])
    with pytest.raises(AssertionError, match="1 tensors were never written, w0 among them"):
        one.run(SCALE)
    assert left(one) == {"out.partial"}


@contextmanager
def mounted(folder: Path, size: str):
    """Mount a small file system, or skip."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, check=False, capture_output=True)
    except OSError as error:
        pytest.skip(f"there is no mount: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # tensors that were read are mapped


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill a file system up to its last page, but for some bytes."""
    stat = os.statvfs(folder)
    path = folder / "ballast"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - leave)
    return path


def test_a_disk_that_is_too_small_is_found_before_any_work(shop):
    shop.save("a", {"w": torch.randn(400_000)})
    with mounted(shop.folder / "disk", "1m") as disk, pytest.raises(PlanError) as error:
        shop.run(SCALE, to="./disk/out")
    assert str(error.value).endswith(
        f"output: needs 1.5 MiB in {disk}, 1.0 MiB are free; free space or choose another disk"
    )


def test_a_disk_that_fills_up_after_planning_is_found_before_any_work(shop):
    shop.save("a", {"w": torch.randn(400_000)})
    control = shop.folder / "control"
    control.write_text("0 0 SIGINT")
    log = shop.folder / "control.log"
    steps = {"m": {"op": "toy.slow", "model": "a", "control": str(control)}}
    with mounted(shop.folder / "disk", "4m") as disk:
        resolved = shop.recipe(steps, to="./disk/out").resolve()
        ballast = fill(disk, leave=200_000)
        with pytest.raises(ResourceError) as error:
            resolved.run(CPU)
        available = os.statvfs(disk)
        assert str(error.value).startswith(
            f"{disk}/out.partial: the disk is too small: the output needs 1.5 MiB, 1"
        )
        assert str(error.value).endswith("are available; free some space or write elsewhere")
        assert available.f_bavail > 0
        assert not log.exists()
        ballast.unlink()
        resolved.run(CPU)
        assert torch.equal(shop.read("disk/out")["w"], shop.read("a")["w"] * 2)


def test_a_disk_that_fills_up_during_the_run_keeps_what_is_finished(shop):
    shop.save("a", {f"w{i}": torch.randn(1000) for i in range(40)})
    with mounted(shop.folder / "disk", "4m") as disk:
        resolved = shop.recipe(
            {"m": {"op": "toy.slow", "model": "a", "seconds": 0.05}}, to="./disk/out"
        ).resolve()

        def when_begun(progress) -> None:
            if progress.done and not (disk / "ballast").exists():
                fill(disk)

        # tensors have their place already: it is the journal that finds no second page
        with pytest.raises(ResourceError) as error:
            resolved.run(CPU, listener=when_begun)
        journal = disk / "out.partial" / ".surgery" / "journal-0.jsonl"
        assert str(error.value) == (
            f"{journal}: cannot be written: No space left on device; free some space, then run again:"
            " what is finished is kept"
        )
        assert not (disk / "out").exists()
        assert not journal.read_bytes().endswith(b"\n")
        (disk / "ballast").unlink()
        report = resolved.run(CPU)
        assert 10 < report.resumed < 40
        made = shop.read("disk/out")
        assert all(torch.equal(made[name], w * 2) for name, w in shop.read("a").items())


def test_a_folder_that_cannot_be_written_is_found_when_planning(shop):
    shop.save("a", {"w": torch.randn(4)})
    with mounted(shop.folder / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(PlanError) as error:
            shop.run(SCALE, to="./disk/out")
        assert str(error.value).endswith(
            f"output.to: cannot write in {disk}; choose another folder or change its permissions"
        )


def test_a_file_system_that_becomes_read_only_after_planning_is_told(shop):
    shop.save("a", {"w": torch.randn(4)})
    with mounted(shop.folder / "disk", "1m") as disk:
        resolved = shop.recipe(SCALE, to="./disk/out").resolve()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(ResourceError) as error:
            resolved.run(CPU)
        assert str(error.value) == (
            f"{disk}/out.partial: cannot be made: Read-only file system; write somewhere else"
        )


@pytest.mark.parametrize(
    ("output", "back"),
    [
        ("out/a", "../.."),
        (".", ""),
        ("../out", "../home"),
        ("../../out/a", None),  # no more than the last part of a folder that is not above is told
    ],
)
def test_a_manifest_says_where_the_recipe_was(tmp_path, output, back):
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    assert publishing._way_back(home / output, home) == back
