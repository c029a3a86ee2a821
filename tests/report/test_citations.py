from __future__ import annotations

import pytest

from surgery.host import Host
from surgery.ops import Op, Params, op
from surgery.report.citations import Work, bibliography, works_in


def made(name: str, cite: str) -> Op:
    @op(name, params=Params, cite=cite)
    def same(x, p):
        """Do nothing."""
        return x.models[0]

    return same


@pytest.mark.parametrize(
    ("cite", "work"),
    [
        (
            "Yadav et al. 2023, TIES-Merging: Resolving Interference, arXiv:2306.01708, algorithm 1",
            Work(
                ("Yadav", "others"),
                "2023",
                "TIES-Merging: Resolving Interference",
                "",
                "2306.01708",
                "algorithm 1",
            ),
        ),
        (
            "Sun et al. 2024, A Simple, Effective Approach, ICLR, arXiv:2306.11695 (without updates)",
            Work(
                ("Sun", "others"),
                "2024",
                "A Simple, Effective Approach",
                "ICLR",
                "2306.11695",
                "without updates",
            ),
        ),
        ("Eckart, Young 1936, Lower rank", Work(("Eckart", "Young"), "1936", "Lower rank")),
        ("Dettmers & Zettlemoyer 2023, 4 bits", Work(("Dettmers", "Zettlemoyer"), "2023", "4 bits")),
        ("Li et al. 2025, Merging, NeurIPS 2025", Work(("Li", "others"), "2025", "Merging", "NeurIPS 2025")),
        ("Karcher 1977, Mollifiers, section 1", Work(("Karcher",), "1977", "Mollifiers", detail="section 1")),
        (
            "Kim et al. 2024, SOLAR 10.7B (scaling)",
            Work(("Kim", "others"), "2024", "SOLAR 10.7B", detail="scaling"),
        ),
    ],
)
def test_a_source_is_taken_apart(cite, work):
    assert works_in(cite) == [work]


def test_a_source_may_name_several_works():
    assert [work.key for work in works_in("Hu et al. 2021, LoRA; Eckart, Young 1936, The lower rank")] == [
        "hu2021lora",
        "eckart1936lower",
    ]


@pytest.mark.parametrize("cite", ["Gromov et al. 2024", "An untold paper, NeurIPS", "see the README"])
def test_what_has_no_author_year_or_title_is_refused(cite):
    with pytest.raises(ValueError, match="is not `Authors YEAR, Title"):
        works_in(cite)


def test_an_entry_reads_as_bibtex_does():
    ops = [made("x.b", "Hu & Li 2021, Low_Rank & more, ICLR, arXiv:2106.09685 (for Linears)")]
    entry, ourselves = bibliography(ops).split("\n\n")
    assert entry == (
        "% x.b\n"
        "@inproceedings{hu2021low,\n"
        "  author = {Hu and Li},\n"
        "  title = {{Low\\_Rank \\& more}},\n"
        "  year = {2021},\n"
        "  booktitle = {ICLR},\n"
        "  eprint = {2106.09685},\n"
        "  archivePrefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/2106.09685},\n"
        "  note = {for Linears},\n"
        "}"
    )
    assert ourselves.startswith("@software{modelsurgery,\n")


def test_a_work_of_several_ops_stands_once_with_its_whole_title():
    ops = [
        made("x.a", "Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, algorithm 1"),
        made("x.b", "Yadav et al. 2023, TIES-Merging: Resolving Interference, arXiv:2306.01708"),
    ]
    text = bibliography(ops)
    assert text.count("@misc") == 1
    assert text.startswith("% x.a, x.b\n@misc{yadav2023ties,\n")
    assert "title = {{TIES-Merging: Resolving Interference}}" in text
    assert "algorithm" not in text


def test_a_source_of_another_form_is_a_comment():
    assert bibliography([made("x.a", "see the README"), made("x.b", "")]).startswith(
        "% x.a: see the README\n\n@software"
    )


def test_every_built_in_source_can_be_taken_apart():
    host = Host()
    for family in host.families:
        host.op(f"{family}.")
    ops = [host.op(name) for name in host.op_names()]
    samplers = [host.sampler(name) for name in host.trial_names("sampler")]
    assert [one.name for one in ops if one is not None and not one.cite] == []
    works = [work for one in (*ops, *samplers) if one is not None and one.cite for work in works_in(one.cite)]
    assert len(works) > 40
    assert not [work for work in works if "arXiv" in work.title or not work.title[0].isalnum()]
