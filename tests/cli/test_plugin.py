"""`surgery plugin new`: what it says and refuses. That the package works is for tests/test_downstream.py to say."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_plugin_is_followed_by_three_commands(surgery, here):
    result = surgery("plugin", "new", "fade")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "wrote surgery-fade; install it, run its tests, look at its op:",
            "  pip install -e 'surgery-fade[test]'",
            "  python -m pytest surgery-fade",
            "  surgery op fade.toward",
        ],
    )
    assert [path.name for path in here.iterdir()] == ["surgery-fade"]
    page = Path(__file__).parents[2] / "docs" / "writing-plugins.md"
    assert result.stdout in page.read_text()


def test_the_last_command_says_what_the_op_does(surgery, here):
    surgery("plugin", "new", "fade")
    shown = surgery("op", "fade.toward", "--plugin", "surgery-fade/surgery_fade/toward.py")
    assert shown.exit_code == 0
    assert "Move a model toward its base: θ + by·(θ₀ - θ)." in shown.stdout
    assert "How far to go: 0 leaves the model as it is, 1 gives the base." in shown.stdout


def test_the_commands_name_the_folder_as_a_shell_takes_it(surgery, here):
    result = surgery("plugin", "new", "two_words", "--into", "my work/deep")
    assert result.stdout.splitlines()[1:3] == [
        "  pip install -e 'my work/deep/surgery-two-words[test]'",
        "  python -m pytest 'my work/deep/surgery-two-words'",
    ]
    assert (here / "my work/deep/surgery-two-words/surgery_two_words/toward.py").is_file()


def test_nothing_is_overwritten(surgery, here):
    surgery("plugin", "new", "fade")
    mine = here / "surgery-fade" / "surgery_fade" / "toward.py"
    mine.write_text("mine")
    result = surgery("plugin", "new", "fade")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: surgery-fade: exists; nothing is overwritten, choose another name or another folder with --into\n",
    )
    assert mine.read_text() == "mine"


def test_a_folder_with_a_single_file_of_another_name_is_left_alone(surgery, here):
    (here / "surgery-fade").mkdir()
    (here / "surgery-fade" / "notes.txt").write_text("mine")
    assert surgery("plugin", "new", "fade").exit_code == 2
    assert [path.name for path in (here / "surgery-fade").iterdir()] == ["notes.txt"]


def test_an_empty_folder_may_be_filled(surgery, here):
    (here / "surgery-fade").mkdir()
    assert surgery("plugin", "new", "fade").exit_code == 0


def test_a_place_that_is_a_file_is_2(surgery, here):
    (here / "occupied").write_text("")
    result = surgery("plugin", "new", "fade", "--into", "occupied")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: occupied/surgery-fade: cannot be made: Not a directory; choose another place\n",
    )


def test_the_name_of_a_built_in_family_is_taken(surgery, here):
    result = surgery("plugin", "new", "merge")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: `merge` is taken: model-surgery has a plugin of this name; choose another\n",
    )


@pytest.mark.parametrize("group", ["surgery", "surgery.always"])
def test_the_name_of_an_installed_plugin_is_taken(surgery, here, install, group):
    install("fade", "raise SystemExit('imported')", group)
    result = surgery("plugin", "new", "fade")
    assert result.stderr.splitlines()[-1] == (
        "error: `fade` is taken: surgery-fade has a plugin of this name; choose another"
    )
    assert not (here / "surgery-fade").exists()


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("Fade", ", such as `fade`"),
        ("my-fade", ", such as `my_fade`"),
        ("surgery-fade", ", such as `fade`"),
        ("surgery_fade", ", such as `fade`"),
        ("4bit.fade", ", such as `fade`"),
        ("a__b", ", such as `a_b`"),
        ("fade_", ", such as `fade`"),
        ("naïve", ", such as `na_ve`"),
        ("../fade", ", such as `fade`"),
        ("7", ""),
        ("", ""),
    ],
)
def test_what_is_no_name_is_2_with_one_that_is(surgery, here, name, suggested):
    result = surgery("plugin", "new", name)
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: `{name}` cannot be a plugin's name: it is what ops are called by, as in `mine.blend`; use "
        "lower-case letters, digits and single underscores, a letter first and no `surgery` before it"
        f"{suggested}\n",
    )
    assert not list(here.iterdir())
