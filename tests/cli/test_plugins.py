from __future__ import annotations

import json

from surgery import __version__


def listed(surgery, *words) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads(surgery("plugins", "--json", *words).stdout)}


def test_plugins_are_listed_with_what_they_add(surgery):
    found = listed(surgery)
    hf, merge = found["hf"], found["merge"]
    assert (merge["distribution"], merge["version"], merge["error"]) == ("model-surgery", __version__, "")
    assert merge["hooks"] == ["surgery_register_ops"]
    assert merge["ops"] == len(json.loads(surgery("ops", "merge", "--json").stdout))
    assert "surgery_register_architectures" in hf["hooks"]
    assert hf["ops"] == 0
    assert hf["file"].endswith("surgery_hf/__init__.py")


def test_a_plugin_that_is_a_family_and_asked_in_every_run_is_listed_once(surgery):
    listing = json.loads(surgery("plugins", "--json").stdout)
    entry = next(entry for entry in listing if entry["name"] == "delta")
    assert [one["name"] for one in listing].count("delta") == 1
    assert {"surgery_register_ops", "surgery_register_adapters"} <= set(entry["hooks"])
    assert entry["ops"] == len(json.loads(surgery("ops", "delta", "--json").stdout))


def test_a_broken_plugin_is_listed_with_its_error_and_hides_nobody(surgery, install):
    install("broken", "import does_not_exist")
    found = listed(surgery)
    assert found["broken"]["error"].startswith(
        "plugin broken (surgery-broken 1.5): failed to import: ModuleNotFoundError"
    )
    assert found["merge"]["ops"] > 0
    result = surgery("plugins")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if line.startswith("broken "))
    assert row.split() == [
        "broken",
        "surgery-broken",
        "1.5",
        "0",
        "does",
        "not",
        "load",
        "surgery_broken_plugin",
    ]
    assert result.stdout.splitlines()[-2] == "broken does not load:"


def test_a_plugin_that_misses_the_contract_is_listed_with_its_error(surgery, install):
    install("wrong", "from surgery import hookimpl\n\n@hookimpl\ndef surgery_job_done(tensor):\n    pass\n")
    error = listed(surgery)["wrong"]["error"]
    assert error.startswith("plugin wrong (surgery-wrong 1.5): ")
    assert error.endswith("compare with the signatures in surgery.hookspecs")


def test_a_plugin_file_is_listed_too(surgery, tmp_path):
    (tmp_path / "mine.py").write_text(
        'from surgery import op\n\n@op("own.same")\ndef same(x, p):\n    """Copy."""\n    return x.models[0]\n'
        "\nfrom surgery import hookimpl\n\n@hookimpl\ndef surgery_run_finished(report):\n    pass\n"
    )
    (tmp_path / "torn.py").write_text("def (")
    found = listed(surgery, "--plugin", tmp_path / "mine.py", "--plugin", tmp_path / "torn.py")
    assert (found["mine"]["distribution"], found["mine"]["ops"]) == ("--plugin", 1)
    assert found["mine"]["hooks"] == ["surgery_run_finished"]
    assert "failed to import: SyntaxError" in found["torn"]["error"]


def test_what_is_disabled_is_said(surgery, monkeypatch):
    monkeypatch.setenv("SURGERY_DISABLED_PLUGINS", "merge, stitch")
    assert {"hf", "merge", "stitch"} & set(listed(surgery)) == {"hf"}
    assert surgery("plugins").stdout.splitlines()[-1] == "left out by SURGERY_DISABLED_PLUGINS: merge, stitch"
