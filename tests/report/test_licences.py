from __future__ import annotations

import pytest

from surgery.checkpoint.memory import MemoryCheckpoint
from surgery.checkpoint.safetensors import SafetensorsCheckpoint
from surgery.report.licences import Licence, common, front_matter, licence_of

MIT = Licence("mit")


def test_the_card_beside_the_weights_states_the_licence(shop):
    (shop / "base" / "README.md").write_text(
        "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\n---\ntext"
    )
    found = licence_of(SafetensorsCheckpoint(shop / "base"))
    assert found == Licence("other", "llama3", "LICENSE")
    assert str(found) == "llama3"
    assert found.front_matter() == {
        "license": "other", "license_name": "llama3", "license_link": "LICENSE"
    }  # fmt: skip


@pytest.mark.parametrize(
    "card",
    [
        "",
        "no front matter: license: mit",
        "---\nlicense: mit\n",
        "---\n- a\n- b\n---\n",
        "---\nlicense: [mit]\n---\n",
        "---\nlicense: {a: &x [*x]}\n---\n",
        "---\n\tlicense: mit\n---\n",
        "\xff\xfe---\n",
    ],
)
def test_a_card_that_does_not_say_is_no_error(shop, card):
    (shop / "base" / "README.md").write_bytes(card.encode("latin-1"))
    assert licence_of(SafetensorsCheckpoint(shop / "base")) is None


def test_a_model_without_files_or_card_states_none(shop):
    assert licence_of(MemoryCheckpoint({}, {})) is None
    assert licence_of(SafetensorsCheckpoint(shop / "base")) is None


def test_windows_line_ends_and_a_mark_are_read(tmp_path):
    card = tmp_path / "README.md"
    card.write_bytes("\ufeff---\r\nlicense: mit\r\n---\r\n".encode())
    assert front_matter(card) == {"license": "mit"}


def test_only_a_licence_that_all_have_is_common():
    assert common({"a": MIT, "b": MIT}) == MIT
    assert common({"a": MIT, "b": None}) is None
    assert common({"a": MIT, "b": Licence("apache-2.0")}) is None
    assert common({}) is None
