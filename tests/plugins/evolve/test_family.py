"""What every sampler promises: values of their genes, and the same proposals for the same scores."""

from __future__ import annotations

import pytest

from surgery.errors import SurgeryError
from surgery.host import Host
from surgery.trials import Gene

GENES = (
    Gene("a", 0.0, 1.5),
    Gene("b", 0.001, 10.0, log=True),
    Gene("c", choices=(2, 3, 4)),
    Gene("d", choices=("x", True, 0.5)),
)
SAMPLERS = ["evolve.cmaes", "evolve.random", "evolve.tpe"]


def run(name: str, genes=GENES, seed: int = 0, count: int = 40, score=lambda values: values[0], **params):
    """Ask and tell `count` times and return what was proposed."""
    kind = Host().sampler(name)
    sampler = kind.make(genes, kind.params(**params), seed)
    proposed = []
    for _ in range(count):
        values = tuple(sampler.ask())
        proposed.append(values)
        sampler.tell(values, score(values))
    return proposed


def test_the_family_registers_its_samplers():
    names = [name for name in Host().trial_names("sampler") if name.startswith("evolve.")]
    assert names == sorted([*SAMPLERS, "evolve.greedy"])  # which takes other genes: test_greedy.py


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_value_belongs_to_its_gene(name):
    for a, b, c, d in run(name):
        assert 0 <= a <= 1.5
        assert 0.001 <= b <= 10
        assert c in (2, 3, 4)
        assert d in ("x", True, 0.5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_and_scores_give_the_same_proposals(name):
    assert run(name, seed=3) == run(name, seed=3)
    assert run(name, seed=3) != run(name, seed=4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_large_seeds_are_seeds(name):
    assert run(name, seed=(1 << 63) - 1, count=2) != run(name, seed=1, count=2)


@pytest.mark.parametrize("name", ["evolve.cmaes", "evolve.tpe"])
def test_good_scores_draw_proposals_near_them(name):
    genes = (Gene("a"), Gene("b"))
    proposed = run(name, genes, count=60, score=lambda v: (v[0] - 0.8) ** 2 + (v[1] - 0.2) ** 2)
    late = proposed[-15:]
    assert sum(a for a, _ in late) / 15 == pytest.approx(0.8, abs=0.15)
    assert sum(b for _, b in late) / 15 == pytest.approx(0.2, abs=0.15)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_gene_and_equal_scores_are_no_trouble(name):
    assert len(run(name, (Gene("a"),), count=30, score=lambda _: 1.0)) == 30


@pytest.mark.parametrize(("name", "package"), [("evolve.cmaes", "cmaes"), ("evolve.tpe", "optuna")])
def test_a_missing_package_is_named_with_the_extra(name, package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(
        SurgeryError, match=rf"^{name}: needs the package `{package}`: .*install `model-surgery\[search\]`$"
    ):
        run(name, count=1)
