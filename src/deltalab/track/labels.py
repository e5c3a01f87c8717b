"""What a study's runs are called in MLflow and what is written on them, from the study's record. No mlflow.

experiment   STUDY            question, links, saved views
run          STUDY            the study itself: counts, the mean of every metric over a cell's seeds, the report
run          kda hybrid s0    a trial: levels as tags and parameters, its whole configuration, colour of its cell
run          table3           an evaluation of a finished trial, nested in it
"""

import getpass
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltalab.spec.trial import flatten
from deltalab.track.book import Book
from deltalab.track.journal import State
from deltalab.track.palette import tints
from deltalab.track.views import run_page, runs_page
from deltalab.wording import level_label, listed, many

REPORT = "report/report.html"
"""The report among the artifacts of the study's run."""
NOT_ALLOWED = re.compile(r"[^\w\-. :/]")
"""What MLflow takes in no name of a metric."""
SHORT_COMMIT = 10


@dataclass(frozen=True, kw_only=True)
class Place:
    """A trial's place in its study.

    Attributes:
        cell: as the study's record has it.
        stage: ``compared``, or ``tuning`` where it only helps to choose a value.
        value: of the key that is tuned, ``train.lr=1e-3``, else "".
        seed: the replicate.
        trial: its id.
    """

    cell: Mapping[str, Any]
    stage: str
    value: str
    seed: int
    trial: str

    @property
    def name(self) -> str:
        """``kda hybrid s0``."""
        return " ".join(part for part in (cell_label(self.cell), self.value, f"s{self.seed}") if part)


def places(record: Mapping[str, Any]) -> Iterator[Place]:
    """A recorded study's trials, cell by cell: those that tune, then those compared."""
    for cell in record["cells"]:
        for value, seeds in cell.get("tuning", {}).items():
            for seed, trial in seeds.items():
                yield Place(cell=cell, stage="tuning", value=value, seed=int(seed), trial=trial)
        for seed, trial in cell["trials"].items():
            yield Place(cell=cell, stage="compared", value="", seed=int(seed), trial=trial)


def cell_label(cell: Mapping[str, Any]) -> str:
    """A cell in few words: ``kda tie=true``."""
    return " ".join(level_label(factor, level) for factor, level in cell["levels"].items())


def colors(record: Mapping[str, Any]) -> dict[str, str]:
    """Cell → its colour."""
    baseline = record["study"].get("baseline")
    run = [cell for cell in record["cells"] if cell.get("excluded") is None and cell["levels"]]
    run.sort(key=lambda cell: cell["levels"] != baseline)
    shades = tints(record["study"]["factors"], [cell["levels"] for cell in run], record["study"].get("within") or [])
    return {cell["name"]: shade for cell, shade in zip(run, shades, strict=True)}


def study_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Of the study's own run."""
    name = record["study"]["name"]
    return {"deltalab.kind": "study", "deltalab.study": name, **_source(record["provenance"]["commit"])}


def trial_tags(record: Mapping[str, Any], place: Place, config: Mapping[str, Any], commit: str) -> dict[str, str]:
    """Of a trial's run, those beside its state and description.

    Args:
        record: the study's.
        place: the trial's.
        config: its specification, as frozen.
        commit: of the code that it ran.
    """
    color = colors(record).get(place.cell["name"])
    return {
        "deltalab.kind": "trial",
        "deltalab.study": record["study"]["name"],
        "deltalab.trial": place.trial,
        "deltalab.cell": place.cell["name"],
        "deltalab.stage": place.stage,
        "deltalab.commit": commit,
        "cell": " ".join(part for part in (cell_label(place.cell), place.value) if part),
        "variant": config["variant"]["name"],
        "seed": str(place.seed),
        **{f"level.{factor}": level for factor, level in place.cell["levels"].items()},
        **_source(commit),
        **({"mlflow.runColor": color} if color else {}),
    }


def _source(commit: str) -> dict[str, str]:
    """In MLflow's own terms."""
    known = {} if commit == "unknown" else {"mlflow.source.git.commit": commit}
    return {"mlflow.source.name": "launch.py", "mlflow.source.type": "LOCAL", "mlflow.user": _user(), **known}


def _user() -> str:
    """Who mirrors; a container need not know the name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def trial_params(place: Place, config: dict[str, Any]) -> dict[str, str]:
    """Levels first, then what follows from them, then the whole configuration."""
    levels = {f"level.{factor}": level for factor, level in place.cell["levels"].items()}
    sizes = {"parameters": place.cell["parameters"], "state_size": place.cell["state_size"]}
    return {key: str(value) for key, value in {**levels, **sizes, **flatten(config)}.items()}


def trial_note(record: Mapping[str, Any], place: Place, book: Book, commit: str) -> str:
    """Description of a trial's run, in Markdown."""
    cell = place.cell
    sizes = f"{cell['parameters']:,} parameters, recurrent state of {cell['state_size']:,} floats a sequence"
    return "\n\n".join(
        [
            f"**{place.cell['name']} seed={place.seed}** of study [{record['study']['name']}]"
            f"({run_page(book.experiment_id, book.parent)}), trial `{place.trial}`, commit `{commit[:SHORT_COMMIT]}`.",
            f"{sizes}.",
            _links(book),
        ]
    )


def study_note(record: Mapping[str, Any], book: Book) -> str:
    """Description of the experiment and of the study's own run, in Markdown."""
    study = record["study"]
    factors = "; ".join(f"{factor}: {', '.join(levels)}" for factor, levels in study["factors"].items())
    within = study.get("within") or []
    levels = {factor: level for factor, level in (study.get("baseline") or {}).items() if factor not in within}
    baseline = ", ".join(f"{factor}={level}" for factor, level in levels.items())
    baseline += f" of the same {listed(within)}" if within else ""
    run = [cell for cell in record["cells"] if cell.get("excluded") is None]
    return "\n\n".join(
        [
            f"**{study['question'] or study['name']}**",
            _links(book),
            f"{many(len(run), 'cell')} ({factors}), baseline {baseline or cell_label(run[0])}, "
            f"seeds {', '.join(map(str, study['seeds']))}.",
            "The study's run has the mean of each metric over the completed seeds of each cell; its step is how many "
            f"those are. Launched by `{record['command']}`.",
        ]
    )


def _links(book: Book) -> str:
    pages = {
        "Curves by cell": runs_page(book.experiment_id),
        "Means over seeds": runs_page(book.experiment_id, "means"),
        "Best first": runs_page(book.experiment_id, "table", charts=False),
        "Report": run_page(book.experiment_id, book.parent, REPORT),
    }
    return " · ".join(f"[{name}]({page})" for name, page in pages.items())


def summary(record: Mapping[str, Any], book: Book) -> dict[str, tuple[int, float]]:
    """Metrics of the study's own run → (step, value).

    Counts of trials by state, at the number of trials that have ended; and of every metric of the study and cell the
    mean over its completed seeds, at the number of those.
    """
    there = {p.trial: book.trials[p.trial] for p in places(record) if p.trial in book.trials}
    states = Counter(State(cursor.state) for cursor in there.values() if cursor.state)
    ended = sum(count for state, count in states.items() if state.terminal)
    told = [name for name in book.summary if name.startswith("trials/")]
    found = dict.fromkeys(("trials/completed", "trials/running", *told), (ended, 0.0))
    found |= {f"trials/{state.value}": (ended, float(count)) for state, count in states.items()}
    for cell in record["cells"]:
        seeds = [there[t] for t in cell["trials"].values() if t in there and there[t].state == State.completed.value]
        for metric in record["study"]["metrics"]:
            values = [cursor.values[metric] for cursor in seeds if metric in cursor.values]
            if values:
                name = NOT_ALLOWED.sub("_", f"{metric}/{cell_label(cell)}")
                found[name] = (len(values), statistics.fmean(values))
    return found


def evaluation_params(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """How a suite was run, of what all of its evaluations have alike."""
    details = [evaluation_details(line) for line in lines]
    return {key: str(value) for key, value in details[0].items() if all(d.get(key) == value for d in details)}


def evaluation_details(line: Mapping[str, Any]) -> dict[str, Any]:
    """How an evaluation was made, without what it measured."""
    return {key: value for key, value in line.items() if key not in ("t", "event", "step", "values", "name")}
