"""Settings of a suite as they are typed."""

from pathlib import Path

import pytest

from deltalab.errors import UsageError
from deltalab.spec.eval import EvalSpec
from deltalab.spec.suite import Suite, SuiteSpec, read_settings, split_settings
from tests.specs import trial


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


def test_targets_come_before_settings():
    words = ["task=once gates=tied", "variant=kda", "gates", "task=mqar", "suite=small", "sampels=3"]
    assert split_settings(words) == (words[:3], words[3:])
    assert split_settings(["gates"]) == (["gates"], [])


def test_suites_of_a_trial():
    spec = trial("data=recall", "eval.suites=['small samples=9 lengths=64',small]", "eval.suite_every=5")
    assert spec.eval.asked == [
        SuiteSpec(suite=Suite.small, samples=9, lengths=(64,)),
        SuiteSpec(suite=Suite.small),
    ]


def test_a_trials_identity_is_what_its_suites_ask_and_not_how_many_at_a_time():
    ids = [
        trial(f"eval.suites=[{suites}]").trial_id
        for suites in ("small", "'small batch_size=3'", "'small data_dir=there'", "'small samples=7'", "")
    ]
    assert ids[0] == ids[1] == ids[2]
    assert len({ids[0], ids[3], ids[4]}) == 3


@pytest.mark.parametrize(
    ("suites", "every", "said"),
    [
        (["tiny"], 0, "eval.suites=tiny: allowed is suites as deltalab eval takes them; suite=tiny: allowed is one of"),
        (["small sample=3"], 0, "eval.suites=small sample=3: allowed is .* sample=3: allowed is KEY=VALUE"),
        ([""], 0, "eval.suites=: allowed is "),
        ([], 5, "eval.suite_every=5: allowed is 0 where eval.suites names none"),
        (["small"], -1, "eval.suite_every=-1: allowed is a whole number from 0"),
    ],
)
def test_mistakes_in_a_trials_suites(suites: list[str], every: int, said: str):
    with pytest.raises(UsageError, match=said):
        EvalSpec(suites=suites, suite_every=every)


def test_a_suite_that_the_vocabulary_cannot_express_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match="suite=table3: allowed is small: the trial's vocabulary"):
        trial("eval.suites=[table3]")
    with pytest.raises(UsageError, match="task=s5: allowed is parity: the trial's vocabulary"):
        trial("eval.suites=['small task=s5']")
