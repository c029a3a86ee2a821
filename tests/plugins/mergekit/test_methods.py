"""Every method: its op exists and takes what is written, defaults included."""

from __future__ import annotations

import pytest

from surgery.host import Host
from surgery.recipe.load import parse_recipe
from surgery.recipe.resolve_ops import resolve_steps
from surgery_mergekit._methods import METHODS, PASSED_OVER, REQUIRED

# What mergekit 0.1.5 does when nothing is said but what it requires (`t` and `weight` are 0.5).
DEFAULTS = {
    "linear": {"normalize": True},
    "slerp": {"t": 0.5},
    "nuslerp": {"flatten": True, "axis": "rows"},
    "multislerp": {"normalize_weights": True, "eps": 1e-8},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "task_arithmetic": {"lambda": 1, "normalize": False},
    "ties": {"lambda": 1, "normalize": True, "rescale": "none"},
    "dare_linear": {"lambda": 1, "normalize": False, "rescale": "inverse"},
    "dare_ties": {"lambda": 1, "normalize": False, "rescale": "inverse"},
    "della": {"lambda": 1, "normalize": True, "rescale": "inverse"},
    "della_linear": {"lambda": 1, "normalize": False, "rescale": "inverse"},
    "breadcrumbs": {"lambda": 1, "normalize": False, "rescale": "none"},
    "breadcrumbs_ties": {"lambda": 1, "normalize": False, "rescale": "none"},
    "sce": {"select_topk": 1},
    "ram": {"epsilon": 1e-5},
    "ramplus_tl": {"r": 0.1, "alpha": 0.2, "epsilon": 1e-5},
    "model_stock": {"filter_wise": False, "clamp": False},
    "nearswap": {"t": 0.5},
    "arcee_fusion": {},
    "passthrough": {},
}
EACH = {"density": 1.0, "gamma": 0.01, "epsilon": 0.15}
COMMON = {"op", "base", "model", "models", "missing", "tokenizer"}


def document(word: str) -> str:
    """Return the shortest document of a method."""
    method = METHODS[word]
    count = {"slerp": 1, "nuslerp": 2, "model_stock": 2}.get(word, 1)
    models = ", ".join(f"{{model: m{i}}}" for i in range(count))
    base = "" if method.base == "input" else "base_model: base\n"
    needed = [name for name, p in {**method.each, **method.step}.items() if p.default is REQUIRED]
    parameters = ", ".join(f"{name}: 0.5" for name in needed)
    return f"merge_method: {word}\n{base}models: [{models}]\nparameters: {{{parameters}}}\n"


@pytest.mark.parametrize("word", METHODS)
def test_mergekits_defaults_are_written_out(step, word):
    made = step(document(word))
    assert {key: value for key, value in made.items() if key not in COMMON} == DEFAULTS[word]
    if isinstance(made.get("models"), dict):
        for params in made["models"].values():
            given = {"weight": 0.5} | {name: EACH[name] for name in METHODS[word].each if name in EACH}
            assert params == given or params == 0.5


@pytest.mark.parametrize("word", METHODS)
def test_the_op_takes_what_is_written(translate, word):
    host = Host()
    recipe = parse_recipe(document(word), foreign=host.read_foreign)
    assert resolve_steps(recipe, host.op)["merged"].op.name == METHODS[word].op


@pytest.mark.parametrize(
    ("word", "plain", "compat"),
    [
        ("dare_ties", "inverse", "l1"),
        ("della", "inverse", "l1"),
        ("ties", "l1", "l1"),
        ("breadcrumbs", "l1", "l1"),
    ],
)
def test_rescale_is_the_papers_or_mergekits(step, word, plain, compat):
    text = document(word).replace("parameters: {", "parameters: {rescale: true, ")
    assert step(text)["rescale"] == plain
    assert step(text + "compat: mergekit\n")["rescale"] == compat
    assert step(text.replace("true", "false"))["rescale"] == "none"


def test_row_wise_means_columns(step):
    text = document("nuslerp").replace("parameters: {", "parameters: {nuslerp_row_wise: true, ")
    assert step(text)["axis"] == "columns"


@pytest.mark.parametrize("name", sorted(PASSED_OVER - METHODS["slerp"].parameters))
def test_parameters_of_other_methods_do_nothing(warned, name):
    text = document("slerp").replace("parameters: {", f"parameters: {{{name}: 1, ")
    assert warned(text) == [f"m.yaml:4:14: parameters.{name}: `{name}` does nothing in `slerp`"]
