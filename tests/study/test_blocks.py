"""Blocks of cells that are compared with one another, in every design, and what a plan says of them."""

from pathlib import Path

from deltalab.spec.study_file import parse_study
from deltalab.study.blocks import Block, blocks_of
from deltalab.study.design import cell_name, cells_of
from deltalab.study.ledger import CellRecord
from tests.study.planning import planned

STUDY = {
    "baseline": {"gates": "tied", "task": "recall"},
    "factors": {"gates": {"tied": {}, "untied": {}}, "task": {"recall": {}, "copy": {}}},
    "within": ["task"],
}
PLANNED = """
baseline: {variant: kda, data: recall}
factors: {variant: [kda, delta_net], data: [recall, parity]}
overrides: {model: tiny}
"""


def blocks(**changes: object) -> list[Block]:
    study = parse_study({**STUDY, **changes}, "a test", "ask")
    cells = [CellRecord(name=cell_name(x), levels=x, overrides={}, excluded=out) for x, out in cells_of(study)]
    return blocks_of(cells, study.baseline, study.within)


def rows(found: list[Block]) -> list[list[str]]:
    return [[" ".join(cell.levels.values()) for cell in block.cells] for block in found]


def test_a_block_is_led_by_the_baselines_levels_of_what_is_compared() -> None:
    found = blocks()
    assert rows(found) == [["tied recall", "untied recall"], ["tied copy", "untied copy"]]
    assert [block.baseline for block in found] == ["gates=tied task=recall", "gates=tied task=copy"]
    assert [block.lacks for block in found] == ["", ""]


def test_without_the_key_all_cells_are_one_block() -> None:
    (only,) = blocks(within=[])
    assert rows([only]) == [["tied recall", "tied copy", "untied recall", "untied copy"]]
    assert (only.levels, only.baseline) == ({}, "gates=tied task=recall")


def test_a_block_without_its_baseline_says_why() -> None:
    one, other = blocks(exclude=[{"when": {"task": "copy", "gates": "tied"}, "reason": "slow"}])
    assert (one.lacks, other.baseline) == ("", None)
    assert other.lacks == "task=copy has no baseline to be compared with: gates=tied is excluded (slow) there"
    *_, listed = blocks(design="list", cells=[{"gates": "untied", "task": "copy"}])
    assert listed.lacks == "task=copy has no baseline to be compared with: gates=tied is not among the cells there"
    assert rows(blocks(exclude=[{"when": {"task": "copy"}, "reason": "slow"}])) == [["tied recall", "untied recall"]]


def test_a_fraction_keeps_its_cells_and_its_blocks_what_baseline_they_have() -> None:
    factors = {name: {"0": {}, "1": {}} for name in "abcd"}
    asked = {"factors": factors, "baseline": dict.fromkeys(factors, "0"), "design": "fractional_factorial"}
    found = blocks(**asked, within=["d"])
    assert [len(block.cells) for block in found] == [4, 4]
    assert [block.baseline is None for block in found] == [False, True], "d = abc: with d=1 no cell has a=b=c=0"


def test_comparing_within_changes_no_trial_and_the_plan_says_what_lacks(tmp_path: Path) -> None:
    plain, within = planned(tmp_path, PLANNED), planned(tmp_path, PLANNED + "within: [data]\n")
    assert list(plain.specs) == list(within.specs)
    assert within.warnings == []
    text = PLANNED + "within: [data]\nexclude: [{when: {variant: kda, data: parity}, reason: slow}]\n"
    warned = planned(tmp_path, text).warnings
    assert warned == ["data=parity has no baseline to be compared with: variant=kda is excluded (slow) there"]
