from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import surgery
from surgery.host import Host
from surgery.report.html import report_page
from surgery.report.sections import over_time, sizes
from surgery.testing.tiny import save_tiny

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


def headings(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_a_page_tells_what_was_done(out, host):
    text = report_page(out, host, {})
    assert headings(text) == ["Summary", "Over time", "Sizes", "Change", "Recipe"]
    assert "<title>out</title>" in text
    assert "merge.linear" in text
    assert str(out.parent) not in text


def test_the_change_of_every_tensor_is_shown(out, host):
    text = report_page(out, host, {})
    # layers of 2 became 2.5, the embedding of ones stayed
    assert "1 of 3 tensors have not changed" in text
    assert "<title>mlp.up, 0: 0.25</title>" in text
    assert '<td>model.layers.1.mlp.up.weight</td><td class="num">0.25</td><td class="num">0.5</td>' in text


def test_what_ops_noted_is_shown_by_tensor_and_layer(shop, host):
    values = iter((0.25, 0.5))
    text = (shop / "mix.yaml").read_text()
    text = text.replace(
        "{op: merge.linear, models: {base: 0.5, code: 0.5}}", "{op: lowrank.svd, model: base, rank: 1}"
    )
    (shop / "mix.yaml").write_text(text)
    surgery.load("mix.yaml").run(surgery.RunOptions(device="cpu", threads=1))
    report = json.loads((shop / "out" / "report.json").read_text())
    for tensor in report["tensors"]:
        for noted in tensor.get("notes", ()):
            noted["numbers"] = {"energy": next(values)}
    (shop / "out" / "report.json").write_text(json.dumps(report))
    page = report_page(shop / "out", host, {})
    assert headings(page) == ["Summary", "Over time", "Sizes", "Change", "Noted by ops", "Recipe"]
    assert (
        '<td>mixed</td><td>energy</td><td class="num">2</td>'
        '<td class="num">0.25</td><td>model.layers.0.mlp.up.weight</td>'
        '<td class="num">0.5</td><td>model.layers.1.mlp.up.weight</td><td class="num">0.375</td>'
    ) in page
    assert "<h3>mixed: energy</h3>" in page
    assert "<title>mlp.up, 1: 0.5</title>" in page


def test_a_source_that_is_gone_is_said(out, host):
    shutil.rmtree(out.parent / "base")
    text = report_page(out, host, {})
    assert "Tensors that descend from `base` are left out: " in text
    assert "pass --models base=PATH" in text
    assert str(out.parent) not in text


def test_a_source_that_moved_can_be_given(out, host):
    (out.parent / "base").rename(out.parent / "moved")
    assert "1 of 3 tensors have not changed" in report_page(out, host, {"base": "moved"})


def test_a_source_that_changed_is_not_compared_with(out, host):
    text = report_page(out, host, {"base": "code"})
    assert "`model.safetensors` has other bytes than the file that was read." in text
    assert "have not changed" not in text


def test_a_model_of_the_hub_is_not_fetched_for_it(out, host):
    text = report_page(out, host, {"base": "org/name"})
    assert "`org/name` is not on this machine; pass --models base=PATH" in text
    manifest = json.loads((out / "surgery.json").read_text())
    manifest["recipe"] = (
        manifest["recipe"].replace("./code", "hub:org/code").replace("./base", "hub:org/base")
    )
    for name in ("base", "code"):
        manifest["models"][name] |= {"repository": f"org/{name}", "revision": "a" * 40}
    (out / "surgery.json").write_text(json.dumps(manifest))
    text = report_page(out, host, {})
    assert f"`hub:org/base@{'a' * 40}` is not on this machine; pass --models base=PATH" in text


def test_without_the_run_report_the_rest_is_told(out, host):
    (out / "report.json").unlink()
    text = report_page(out, host, {})
    assert "There is no report.json that says what each tensor descends from." in text
    assert "The run was too short to be sampled." in text


def test_rates_are_bytes_over_the_time_between_samples():
    mib = 1 << 20
    samples = {"seconds": [0, 1, 3], "read": [0, 5 * mib, 25 * mib], "written": [0, 0, mib], "rss": [mib] * 3}
    body = over_time({"samples": samples}).body
    assert "<title>read: 0.5, 5</title>" in body
    assert "<title>read: 2, 10</title>" in body
    assert "<title>written: 2, 0.5</title>" in body
    assert "<title>resident memory: 3, 1</title>" in body


def test_long_runs_are_thinned():
    rows = list(range(100_000))
    body = over_time({"samples": dict.fromkeys(("seconds", "read", "written", "rss"), rows)}).body
    assert len(body) < 50_000


def test_modules_beyond_the_largest_are_taken_together(host):
    import numpy as np

    from surgery.checkpoint.memory import MemoryCheckpoint
    from surgery.plan.virtual import from_checkpoint

    tensors = {f"layers.0.m{i:02d}.weight": np.zeros(256 * (i + 1), np.float32) for i in range(30)}
    body = sizes(from_checkpoint("m", MemoryCheckpoint(tensors, {}), ()).tensors).body
    assert "<title>m29: 30</title>" in body
    assert "<title>6 more: 21</title>" in body  # 1 + 2 + ... + 6 KiB


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.slow
def test_a_browser_shows_it_without_complaint(out, host, tmp_path):
    (tmp_path / "page.html").write_text(report_page(out, host, {}))
    picture = tmp_path / "page.png"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={tmp_path}/profile", f"--screenshot={picture}", "--window-size=600,1200",
        (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert Path(picture).stat().st_size > 20_000


def test_of_codes_the_error_of_what_they_stand_for_is_shown(tmp_path, host):
    save_tiny(tmp_path / "base")
    steps = "{small: {op: quant.int8, model: base}}"
    text = f"surgery: 1\nmodels: {{base: ./base}}\nsteps: {steps}\noutput: {{model: small, to: ./out}}\n"
    surgery.loads(text, folder=tmp_path).run(surgery.RunOptions(device="cpu", threads=1))
    page = report_page(tmp_path / "out", host, {})
    assert "14 tensors are quantized: theirs is the error of what is stored. 7 of 21 tensors" in page
    (error,) = re.findall(r"<title>mlp.down_proj, 0: ([\d.]+)</title>", page)
    # half a step of max|w| / 127.5 at most, and |w| is about a third of the row's largest
    assert 0.001 < float(error) < 0.02
