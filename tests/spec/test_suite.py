"""Settings of a suite as they are typed."""

from pathlib import Path

import pytest

from deltalab.errors import UsageError
from deltalab.spec.suite import Suite, SuiteSpec, read_settings


def test_all_settings():
    typed = "suite=table3 task=a,b lengths=[64,128] samples=9 batch_size=2 add_bos=false haystack=x=y.txt"
    assert read_settings(typed.split()) == SuiteSpec(
        suite=Suite.table3,
        task=("a", "b"),
        lengths=(64, 128),
        samples=9,
        batch_size=2,
        add_bos=False,
        haystack="x=y.txt",
    )
    assert read_settings(["suite=small"]) == SuiteSpec(suite=Suite.small)
    typed = "suite=table4 max_length=1024 data_dir=there"
    there = str(Path("there").absolute())
    assert read_settings(typed.split()) == SuiteSpec(suite=Suite.table4, max_length=1024, data_dir=there)


def test_what_is_drawn_has_a_number_and_what_is_read_goes_to_its_end():
    assert (SuiteSpec(suite=Suite.small).drawn, SuiteSpec(suite=Suite.small).samples) == (500, None)
    assert SuiteSpec(suite=Suite.small, samples=7).drawn == 7


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "suite: none given; allowed is suite= one of table2, table3, table4, small"),
        ("suite=table9", "suite=table9: allowed is one of table2, table3, table4, small"),
        ("suite=small sample=3", "sample=3: allowed is KEY=VALUE, each once, with one of suite, task, "),
        ("small", "small: allowed is KEY=VALUE"),
        ("suite=small samples=1 samples=2", "samples=2: allowed is KEY=VALUE, each once"),
        ("suite=small samples=many", "samples=many: allowed is "),
        ("suite=small samples=0", "samples=0: allowed is a whole number from 1"),
        ("suite=small lengths=64,0", "lengths=64,0: allowed is whole numbers from 1"),
        ("suite=small lengths=", "lengths=: allowed is "),
        ("suite=small batch_size=0", "batch_size=0: allowed is a whole number from 1"),
        ("suite=table2 max_length=0", "max_length=0: allowed is a whole number from 1"),
        ("suite=small add_bos=yes", "add_bos=yes: allowed is one of true, false"),
    ],
)
def test_mistakes(typed: str, said: str):
    with pytest.raises(UsageError) as caught:
        read_settings(typed.split())
    assert str(caught.value).startswith(said)
