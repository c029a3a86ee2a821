from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.recipe import select
from surgery.recipe.select import ACCEPTED, Selection, compile_selector, nearest_names
from surgery.tensors import Role, TensorInfo, TensorSpec


def info(
    name: str, kind: str = "other", layer: int | None = None, expert: int | None = None, stack: str = ""
) -> TensorInfo:
    return TensorInfo(TensorSpec(name, (2, 2), "F32"), Role(kind, layer, expert, stack))


def block(layer: int) -> list[TensorInfo]:
    at = f"model.layers.{layer}."
    return [
        info(at + "input_layernorm.weight", "norm.input", layer),
        info(at + "self_attn.q_proj.weight", "attention.q", layer),
        info(at + "self_attn.o_proj.weight", "attention.o", layer),
        info(at + "mlp.gate_proj.weight", "mlp.gate", layer),
        info(at + "mlp.up_proj.weight", "mlp.up", layer),
        info(at + "mlp.router.weight", "router", layer),
        *(info(f"{at}mlp.experts.{i}.down.weight", "experts.down", layer, i) for i in range(3)),
        info(at + "mlp.shared_expert.down.weight", "shared_expert.down", layer),
    ]


MODEL = [
    info("model.embed_tokens.weight", "embed"),
    *(one for layer in range(4) for one in block(layer)),
    info("model.norm.weight", "norm.final"),
    info("lm_head.weight", "head"),
    info("layers.0.odd"),
]
SEQ2SEQ = [
    info(f"{side}.block.{layer}.{part}.weight", part, layer, stack=f"{side}.block")
    for side in ("encoder", "decoder")
    for layer in range(2)
    for part in ("attention", "mlp")
]
NAMES = [one.name for one in MODEL]


def chosen(text: str) -> set[str]:
    return {one.name for one in MODEL if compile_selector(text).matches(one)}


def names(pattern: str) -> set[str]:
    return {name for name in NAMES if re.search(pattern, name)}


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("layers[1:3]", r"model\.layers\.[12]\."),
        ("layers[2:]", r"model\.layers\.[23]\."),
        ("layers[:1]", r"model\.layers\.0\."),
        ("layers[:]", r"model\.layers\."),
        ("layers[ 1 : 2 ]", r"model\.layers\.1\."),
        ("layers[3]", r"model\.layers\.3\."),
        ("layers[9]", "^$"),
        ("layers", r"layers\."),
        ("layers.mlp", r"mlp\.(gate|up)_proj"),
        ("layers.0.odd", "odd"),
        ("layers[1:3].mlp", r"\.[12]\.mlp\.(gate|up)_proj"),
        ("layers[1].attention.q", r"\.1\..*q_proj"),
        ("mlp", r"mlp\.(gate|up)_proj"),
        ("mlp.gate", "gate_proj"),
        ("attention", "self_attn"),
        ("norm", "norm"),
        ("norm.final", r"model\.norm"),
        ("embed", "embed"),
        ("head", "lm_head"),
        ("router", "router"),
        ("experts", r"experts\."),
        ("experts.routed", r"experts\."),
        ("experts.routed.down", r"experts\."),
        ("experts.routed.up", "^$"),
        ("experts.shared", "shared_expert"),
        ("experts.shared.down", "shared_expert"),
        ("experts.shared.up", "^$"),
        ("experts.sharedown", "^$"),
        ("shared_expert", "shared_expert"),
        ("layers.experts.shared", "shared_expert"),
        ("layers[2:].experts.shared", r"\.[23]\..*shared_expert"),
        ("layers[2:].experts.routed.down", r"\.[23]\..*experts\."),
        ("experts[0:2]", r"experts\.[01]\."),
        ("experts[1].down", r"experts\.1\."),
        ("experts[1].up", "^$"),
        ("layers[2:].experts[1]", r"\.[23]\..*experts\.1\."),
        ("lm_head.weight", "lm_head"),
        ("lm_head", "lm_head"),
        ("model.layers.1", r"model\.layers\.1\."),
        ("model.layers.*.mlp.*", r"\.mlp\."),
        ("*_proj.weight", "_proj"),
        ("model.layers.?.mlp.up_proj.weight", "up_proj"),
        ("re:q_proj|router", "q_proj|router"),
        ("re:^layers", "odd"),
        (" mlp ", r"mlp\.(gate|up)_proj"),
        ("MLP", "^$"),
        ("mlp.gat", "^$"),
        ("model.layer", "^$"),
    ],
)
def test_a_selector_means_these_tensors(text: str, pattern: str) -> None:
    assert chosen(text) == names(pattern)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("layers[1]", r"\.1\."),
        ("encoder.layers[1:]", r"^encoder\.block\.1"),
        ("decoder.layers[:1].mlp", r"^decoder\.block\.0\.mlp"),
        ("decoder.block.layers[0].mlp", r"^decoder\.block\.0\.mlp"),
        ("coder.layers[0]", "^$"),
    ],
)
def test_a_stack_is_named_before_its_layers(text: str, pattern: str) -> None:
    found = [one.name for one in SEQ2SEQ if compile_selector(text).matches(one)]
    assert found == [one.name for one in SEQ2SEQ if re.search(pattern, one.name)]


NOT_A_RANGE = "brackets hold an index or a range from 0 up: `[3]`, `[4:28]`, `[4:]` or `[:28]`, got `{}`"
EMPTY = "an empty range, got `{}`; a range ends before its second index"
BRACKETS = "brackets belong to `layers` and then `experts`, got `{}`; " + ACCEPTED
NOT_ONE = "not a selector, got `{}`; " + ACCEPTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers[-1]", NOT_A_RANGE),
        ("layers[]", NOT_A_RANGE),
        ("layers[a:b]", NOT_A_RANGE),
        ("layers[0:8:2]", NOT_A_RANGE),
        ("layers[1.5]", NOT_A_RANGE),
        ("layers[9999999999]", NOT_A_RANGE),
        ("layers[٣]", NOT_A_RANGE),
        ("experts[2:2]", EMPTY),
        ("layers[8:4].mlp", EMPTY),
        ("mlp[0:2]", BRACKETS),
        ("mlp.layers[0:2]", BRACKETS),
        ("mlp.experts[0]", BRACKETS),
        ("layers[0:2", NOT_ONE),
        ("layers[0:2].", NOT_ONE),
        ("layers[0:2]mlp", NOT_ONE),
        ("mlp..gate", NOT_ONE),
        ("a b", NOT_ONE),
        ("layers(3)", NOT_ONE),
        (
            "layers[1:3].*",
            "brackets do not go with `*` and `?`, got `{}`; write `layers[4:28].mlp` or `re:...`",
        ),
        ("!mlp", "`!` stands once and only in `where`, got `{}`; " + ACCEPTED),
        ("re:[", "not a usable regular expression, got `{}`: unterminated character set at position 0"),
    ],
)
def test_a_selector_that_is_wrong_is_refused_saying_what_is_accepted(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(text))}$"):
        compile_selector(text)


def test_empty_and_endless_selectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^a selector has 1 to 1000 characters, got empty text; write "):
        compile_selector("  ")
    with pytest.raises(ValueError, match=r"^a selector has 1 to 1000 characters, got `aaa"):
        compile_selector("a" * 1001)


def selected(*texts: str) -> set[str]:
    selection = Selection(texts)
    return {one.name for one in MODEL if selection.matches(one)}


def test_a_list_of_selectors_is_their_union() -> None:
    assert selected("mlp.up", "head") == names("up_proj|lm_head")


def test_an_entry_with_an_exclamation_mark_takes_away_wherever_it_stands() -> None:
    assert selected("layers", "!mlp", "!layers[0]") == selected("!layers[0]", "!mlp", "layers")
    assert selected("attention", "!layers[1:]") == names(r"layers\.0\.self_attn")


def test_entries_that_take_away_alone_take_from_all_tensors() -> None:
    assert selected("!layers", " ! norm ") == names("embed|lm_head")


def test_a_bad_entry_of_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^an empty range, got `layers\[2:1\]`"):
        Selection(["mlp", "!layers[2:1]"])


def test_selectors_are_compiled_once_and_selections_compare_by_their_text() -> None:
    assert compile_selector("layers[1:3].mlp") is compile_selector("layers[1:3].mlp")
    assert Selection([" mlp"]) == Selection(("mlp",))
    assert repr(Selection(["!mlp"])) == "Selection(texts=('!mlp',))"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_ranges_are_half_open(start: int, length: int, layer: int) -> None:
    stop = start + length + 1
    assert compile_selector(f"layers[{start}:{stop}]").matches(info("x", layer=layer)) == (
        start <= layer < stop
    )


@given(st.text("laeyrsxptmw[]:.0123456789*?!-_ ", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_selector_or_a_value_error(text: str) -> None:
    try:
        selector = compile_selector(text)
    except ValueError:
        return
    assert {selector.matches(one) for one in MODEL} <= {True, False}


@given(
    st.lists(st.sampled_from(["mlp", "!mlp", "layers[1:]", "!norm", "head", "re:q", "!*embed*"]), min_size=1)
)
def test_a_list_matches_what_its_parts_say(texts: list[str]) -> None:
    wanted = [text for text in texts if text[0] != "!"]
    taken = set().union(*(chosen(text[1:]) for text in texts if text[0] == "!"))
    given_ = set().union(*map(chosen, wanted)) if wanted else set(NAMES)
    assert selected(*texts) == given_ - taken


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("lm_haed.weight", ("lm_head.weight",)),
        ("model.layers.3.mlp.gate.weight", ("model.layers.*.mlp.gate_proj.weight",)),
        ("atention.q", ("attention.q",)),
        ("layers[4:28].mpl", ("mlp",)),
        ("layers[4:28].mlp.gat", ("mlp.gate",)),
        ("!rooter", ("router",)),
        ("re:q_prj", ()),
    ],
)
def test_names_like_a_selector_that_matches_nothing_are_found(text: str, near: tuple[str, ...]) -> None:
    known: Iterable[str] = [*NAMES, *(one.role.kind for one in MODEL)]
    assert nearest_names(text, known)[: len(near) or 1] == near


def test_the_examples_in_the_documentation_are_selectors() -> None:
    table = [line[4:27].strip() for line in (select.__doc__ or "").splitlines() if line.startswith("    ")]
    examples = [text for cell in table for text in cell.split(", ")]
    assert len(examples) == 10
    for text in [*examples, *re.findall(r"`(layers[^`]*)`", select.__doc__ or "")]:
        assert compile_selector(text).text == text


def test_no_selector_needs_torch() -> None:
    assert "torch" not in Path(select.__file__).read_text()
