"""Samplers and evaluators: declared, registered, found by name, and told apart from broken ones."""

from __future__ import annotations

import pytest

import surgery
from surgery.errors import PluginError
from surgery.host import Host

SOURCE = '''
from __future__ import annotations

import surgery

@surgery.sampler("{family}.same")
class Same(surgery.Sampler):
    """Propose the centre again and again."""

    def __init__(self, genes, params, seed):
        self.genes = genes

    def ask(self):
        return [gene.at(0.5) for gene in self.genes]

    def tell(self, values, score):
        pass

@surgery.evaluator("{family}.one", executes=True)
class One(surgery.Evaluator):
    """Score everything 1."""

    def open(self, subject, params):
        return None

    def score(self, resident, params):
        return 1
'''

HOOKS = """
@surgery.hookimpl
def surgery_register_samplers():
    return {samplers}

@surgery.hookimpl
def surgery_register_evaluators():
    return {evaluators}
"""


@pytest.fixture
def host(tmp_path):
    """A host with a plugin file of this text."""

    def load(text: str, name: str = "mine") -> Host:
        (tmp_path / f"{name}.py").write_text(text)
        return Host([tmp_path / f"{name}.py"])

    return load


def refused(make) -> str:
    with pytest.raises(PluginError) as error:
        make()
    return str(error.value)


def test_a_file_may_simply_define_them(host):
    loaded = host(SOURCE.format(family="mine"))
    assert loaded.sampler("mine.same").summary == "Propose the centre again and again."
    assert loaded.evaluator("mine.one").executes
    assert loaded.sampler("mine.one") is None
    assert loaded.evaluator("mine.same") is None
    assert "mine.same" in loaded.trial_names("sampler")
    assert "mine.one" in loaded.trial_names("evaluator")


def test_hooks_register_them(host):
    loaded = host(SOURCE.format(family="mine") + HOOKS.format(samplers="[Same]", evaluators="[One]"))
    assert loaded.sampler("mine.same").name == "mine.same"
    assert loaded.evaluator("mine.one").name == "mine.one"
    assert (
        host(SOURCE.format(family="mine") + HOOKS.format(samplers="[]", evaluators="[]")).sampler("mine.same")
        is None
    )


def test_a_family_is_loaded_when_it_is_named():
    loaded = Host()
    assert loaded.sampler("evolve.random").module == "surgery_evolve.random"
    assert "eval" not in loaded._registry.loaded


def test_a_hook_that_returns_something_else_is_refused(host):
    text = SOURCE.format(family="mine") + HOOKS.format(samplers="[One]", evaluators="[]")
    told = refused(lambda: host(text))
    assert told.startswith("plugin mine: surgery_register_samplers returned EvaluatorKind(")
    assert told.endswith(", not a SamplerKind")


def test_the_name_of_an_installed_family_is_refused(host):
    told = refused(lambda: host(SOURCE.format(family="evolve")))
    assert told.startswith("plugin mine: registers sampler `evolve.same`, which belongs to plugin evolve (")
    assert told.endswith("; choose another name")


def test_one_name_twice_is_refused(host):
    text = SOURCE.format(family="mine") + HOOKS.format(samplers="[Same, Same]", evaluators="[]")
    assert refused(lambda: host(text)) == (
        "plugin mine: registers sampler `mine.same`, which belongs to plugin mine; choose another name"
    )


def test_declarations_that_make_no_sense_are_refused():
    class Bare(surgery.Sampler):
        pass

    assert (
        refused(lambda: surgery.sampler("nodot")) == "sampler `nodot`: a name is `family.method`; rename it"
    )
    assert refused(lambda: surgery.evaluator("a.b")(3)) == (
        "evaluator `a.b`: must be a class that derives from Evaluator, got 3"
    )
    assert refused(lambda: surgery.sampler("a.b")(Bare)) == (
        "sampler `a.b`: has no docstring; its first line says what it does"
    )


def test_a_package_lists_what_its_modules_declare():
    assert [kind.name for kind in surgery.samplers_in("surgery_evolve")] == [
        "evolve.cmaes",
        "evolve.greedy",
        "evolve.random",
        "evolve.tpe",
    ]
    assert [kind.name for kind in surgery.evaluators_in("surgery_eval")] == ["eval.perplexity", "eval.python"]


def test_declaring_imports_no_torch(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, surgery_evolve.cmaes, surgery_evolve.tpe, surgery_eval.perplexity, surgery_eval.python\n"
    )
    code += "assert not {'torch', 'transformers', 'optuna', 'cmaes'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
