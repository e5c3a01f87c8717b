"""A large study collated from its journals, beside a loop over MLflow's client: ``python -m benchmarks.collate``.

The study is made here: ``--trials`` × ``--metrics`` × ``--steps``, journals as trials write them. What is timed is a
process of its own, its start and imports included, whose peak of resident memory is read; it makes the table and all
curves. The loop asks ``MlflowClient.get_metric_history`` for each metric of each run, as one would without this
project; it is timed on ``--sample`` of the trials, in a database that holds these alone (which favours it), and scaled
to all. That both found the same numbers is checked. Options:

    --trials 1000 --metrics 20 --steps 1000
    --sample 5              trials that the loop is timed on
    --json FILE             the figures for programs

Exit code 1 if collating took 10 s or 1 GB, was less than 20 times faster, or found other numbers.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_SECONDS = 10.0
MOST_BYTES = 1e9
LEAST_RATIO = 20.0
STUDY = "large"
SAMPLE = "sample"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured.

    Attributes:
        points: in the study.
        journals: bytes of all journals.
        seconds: wall time of collating.
        processor: processor time of it, over all threads.
        peak: bytes of resident memory.
        loop: wall time of the loop on the sample.
        sample: trials in the sample.
        trials: trials in all.
        equal: whether both found the same numbers.
    """

    points: int
    journals: int
    seconds: float
    processor: float
    peak: int
    loop: float
    sample: int
    trials: int
    equal: bool

    @property
    def scaled(self) -> float:
        """The loop's seconds for all trials."""
        return self.loop * self.trials / self.sample

    @property
    def shortfalls(self) -> list[str]:
        """What does not hold, in words."""
        promises = {
            f"{self.seconds:.1f} s, promised under {MOST_SECONDS:g}": self.seconds < MOST_SECONDS,
            f"{self.peak / 1e9:.2f} GB, promised under {MOST_BYTES / 1e9:g}": self.peak < MOST_BYTES,
            f"{self.scaled / self.seconds:.0f} × the loop, promised {LEAST_RATIO:g}": self.scaled
            >= LEAST_RATIO * self.seconds,
            "the loop found other numbers": self.equal,
        }
        return [said for said, holds in promises.items() if not holds]


def write_studies(runs: Path, trials: int, metrics: int, steps: int, sample: int) -> None:
    """The study, and one of its first trials alone."""
    from deltalab.spec import load
    from deltalab.spec.study import Goal, StudySpec
    from deltalab.study import ledger
    from deltalab.study.design import cell_name
    from deltalab.study.ledger import CellRecord
    from deltalab.study.resolve import resolve

    template = resolve(load.trial_spec(load.compose(["train=smoke", "model.mlp_width=16"])))
    names = [f"eval/accuracy/{place}" for place in range(metrics)]
    cells, rng = [], random.Random(8)
    for place in range(trials):
        levels = {"rate": str(place)}
        spec = replace(template, train=replace(template.train, lr=1e-3 + place * 1e-6))
        _write_journal(ledger.freeze(runs, spec), names, steps, rng)
        cells.append(CellRecord(name=cell_name(levels), levels=levels, overrides={}, trials={0: spec.trial_id}))
    study = StudySpec(
        name=STUDY,
        baseline={"rate": "0"},
        factors={"rate": {str(place): {} for place in range(trials)}},
        metrics=dict.fromkeys(names, Goal.max),
    )
    for name, of in ((STUDY, cells), (SAMPLE, cells[:sample])):
        ledger.write_study(runs, replace(study, name=name), of, "benchmarks.collate", {"commit": "unknown"})


def _write_journal(folder: Path, names: Sequence[str], steps: int, rng: random.Random) -> None:
    """What ``Journal`` writes, in one go: a line per step."""
    heads = [f'{"," if place else ""}"{name}":' for place, name in enumerate(names)]
    lines = [f'{{"t":1700000000.0,"event":"state","state":"running","device":"cpu","steps":{steps}}}\n']
    for step in range(1, steps + 1):
        values = "".join([f"{head}{rng.random()!r}" for head in heads])
        t = 1_700_000_000 + step / 4 + rng.random() / 8
        lines.append(f'{{"t":{t!r},"event":"metrics","step":{step},"values":{{{values}}}}}\n')
    lines.append(f'{{"t":{1_700_000_001.0 + steps / 4},"event":"state","state":"completed","step":{steps}}}\n')
    (folder / "journal.jsonl").write_text("".join(lines))


def measure(runs: Path) -> dict[str, Any]:
    """Collate in this process, and what it took until now."""
    from analysis.collate import collate

    results = collate(runs, STUDY)
    used = resource.getrusage(resource.RUSAGE_SELF)
    first = results.curves.loc[results.curves["cell"] == "rate=0", "value"].to_numpy()
    last = results.trials.loc[[0], [metric.name for metric in results.metrics]].to_numpy()[0]
    return {
        "points": len(results.curves),
        "trials": len(results.trials),
        "processor": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
        "sum": float(first.sum()),
        "last": last.tolist(),
    }


def loop(runs: Path) -> tuple[float, float, list[float]]:
    """Seconds of the naive loop over the sample; the first trial's sum and last values, to compare."""
    from mlflow import MlflowClient

    from deltalab.track.connection import tracking_uri

    began = time.perf_counter()
    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name(SAMPLE)
    assert experiment is not None, "the sample was mirrored"
    rows = {}
    for run in client.search_runs([experiment.experiment_id], "tags.`deltalab.kind` = 'trial'"):
        level = run.data.tags["level.rate"]
        for name in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, name)
            rows[level, name] = sorted((point.step, point.value) for point in points)
    seconds = time.perf_counter() - began
    first = {name: points for (level, name), points in rows.items() if level == "0"}
    names = sorted(first, key=lambda name: int(name.rsplit("/", 1)[1]))
    return seconds, sum(v for points in first.values() for _, v in points), [first[name][-1][1] for name in names]


def run(options: argparse.Namespace, runs: Path, console: Console) -> Figures:
    """Make, mirror, measure."""
    from deltalab.track.connection import quiet_mlflow
    from deltalab.track.mlflow import Mirror

    console.print(f"writing {options.trials:,} journals …")
    write_studies(runs, options.trials, options.metrics, options.steps, options.sample)
    journals = sum(path.stat().st_size for path in runs.glob("trials/*/journal.jsonl"))
    console.print(f"{journals / 1e6:,.0f} MB; mirroring {options.sample} …")
    quiet_mlflow()
    Mirror(runs, SAMPLE, f"sqlite:///{(runs / 'mlflow.db').resolve()}").sync()
    console.print("collating …")
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.collate", "--measure", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    found = json.loads(done.stdout)
    console.print("asking MLflow's client …")
    looped, total, last = loop(runs)
    return Figures(
        points=found["points"],
        journals=journals,
        seconds=seconds,
        processor=found["processor"],
        peak=found["peak"],
        loop=looped,
        sample=options.sample,
        trials=found["trials"],
        equal=abs(total - found["sum"]) < 1e-6 * total and last == found["last"],
    )


def table_of(figures: Figures) -> Table:
    """The figures side by side."""
    table = Table(title=f"{figures.trials:,} trials, {figures.points:,} points", title_justify="left")
    for column in ("", "wall", "processor", "peak memory"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(
        "analysis.collate, from the journals",
        f"{figures.seconds:.2f} s",
        f"{figures.processor:.2f} s",
        f"{figures.peak / 1e9:.2f} GB",
    )
    how = f"MlflowClient.get_metric_history, {figures.loop:.2f} s for {figures.sample} trials, scaled"
    table.add_row(how, f"{figures.scaled:,.0f} s", "", "")
    table.add_row("ratio", f"{figures.scaled / figures.seconds:,.0f} ×", "", "")
    return table


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; see the top of this file."""
    parser = argparse.ArgumentParser(description="Time collating a large study beside a loop over MLflow's client.")
    for name, default in (("trials", 1000), ("metrics", 20), ("steps", 1000), ("sample", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.sample = min(options.sample, options.trials)
    return options


def main(arguments: Sequence[str]) -> int:
    """The benchmark; see the top of this file."""
    options = parsed(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(options, Path(folder), console)
    console.print(table_of(figures))
    for shortfall in figures.shortfalls:
        console.print(f"short: {shortfall}")
    if options.json:
        options.json.write_text(json.dumps({**asdict(figures), "ratio": figures.scaled / figures.seconds}, indent=1))
    return int(bool(figures.shortfalls))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
