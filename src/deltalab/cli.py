"""``deltalab``: plan studies, follow and steer trials, use what they trained, look after the runs folder.

No torch is loaded here, but by the commands that run a model.
"""

import json
import sys
import time
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.prompt import Prompt

from deltalab.command import run_app
from deltalab.errors import NotFoundError
from deltalab.spec.evaluation import measured_study
from deltalab.spec.launcher import Device
from deltalab.spec.sampling import SamplingSpec
from deltalab.study import ledger
from deltalab.track.views import PORT

app = typer.Typer(
    help="Plan, follow and steer ablation studies of gated delta-rule language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Runs = Annotated[Path, typer.Option(help="The runs folder.", envvar="DELTALAB_RUNS")]
RUNS = Path("runs")
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Study = Annotated[str | None, typer.Option(help="The study a cell is looked for in; the newest when left out.")]
SAMPLING = SamplingSpec()


class Dtype(Enum):
    """Types that weights are written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


TRAINED = "A completed trial: its id or the beginning of one, a cell (variant=kda seed=1), its folder or weights."
TRIAL = "A trial's id or the beginning of one, a cell (variant=kda seed=1), or a study."


def _print_version(asked: bool) -> None:
    if asked:
        print(f"deltalab {version('deltalab')}")
        raise typer.Exit


@app.callback()
def options(
    print_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """What comes before a command; the help is the app's."""


@app.command()
def plan(
    study: Annotated[str, typer.Argument(help="A study in sweeps/, or a file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides for every cell.")] = None,
    runs: Runs = RUNS,
    as_json: Json = False,
) -> None:
    """Print what a study would run and what it costs."""
    from deltalab.dispatch.launch import plan_named
    from deltalab.dispatch.show import make_console, plan_json, show_plan
    from deltalab.spec.load import launcher

    given = overrides or []
    how = launcher([part for part in given if part.startswith("hydra")])
    made = plan_named(study, given, runs.resolve())
    if as_json:
        print(json.dumps(plan_json(made, how), indent=1))
    else:
        show_plan(make_console(), made, how)


@app.command()
def prepare(
    overrides: Annotated[
        list[str], typer.Argument(help="Hydra overrides: a text (data=fineweb_edu); hydra/launcher=slurm for an array.")
    ],
    runs: Runs = RUNS,
    shard: Annotated[
        str | None, typer.Option(help="i/n: make the i-th of n shares, each in a process or job of its own.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; a core each when left out.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say how far it is, in Slurm's queue too.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Only hold what is there against its checksums.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a text into the tokens that trials train on; run again, it goes on where it was interrupted."""
    from deltalab.dispatch.prepare_command import Request, run_prepare

    run_prepare(
        Request(
            overrides=overrides,
            runs=runs.resolve(),
            shard=shard,
            workers=workers,
            status=status,
            verify=verify,
            as_json=as_json,
        )
    )


@app.command("prepare-eval")
def prepare_eval(
    settings: Annotated[
        list[str],
        typer.Argument(help="out=DIR, and suite=table2|table3|table4|all."),
    ],
) -> None:
    """Download the data sets of the paper's tables into a folder, for deltalab eval where no hub is reached."""
    from deltalab.evals.prepare import run_prepare_eval

    run_prepare_eval(settings)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="A launched study; the newest when left out.")] = None,
    runs: Runs = RUNS,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every two seconds until nothing runs.")] = False,
    trials: Annotated[bool, typer.Option("--trials", help="A row per trial, also where there are many.")] = False,
    as_json: Json = False,
) -> None:
    """Show states, progress, present figures, rate and time to go of a study's trials."""
    from deltalab.dispatch.states import Observer
    from deltalab.dispatch.status import Status

    name, observer = _study_or_newest(runs, study), Observer(runs)
    present = Status(observer, name)
    if as_json:
        print(json.dumps(present.json(), indent=1))
    elif watch:
        with Live(present.table(trials), console=_console(), refresh_per_second=2) as live:
            while not present.over:
                time.sleep(2)
                present = Status(observer, name)
                live.update(present.table(trials))
    else:
        _console().print(present.table(trials))


@app.command()
def logs(
    trial: Annotated[str, typer.Argument(help=TRIAL)],
    runs: Runs = RUNS,
    study: Study = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial ends.")] = False,
) -> None:
    """Print a trial's log: standard output and error of all its runs."""
    from deltalab.dispatch.states import Observer
    from deltalab.dispatch.steer import find_one, read_log

    read_log(Observer(runs), find_one(runs, trial, study).trial, follow, sys.stdout.buffer.write)


@app.command()
def cancel(
    trials: Annotated[list[str], typer.Argument(help=TRIAL)],
    runs: Runs = RUNS,
    study: Study = None,
) -> None:
    """Cancel trials: those that wait leave the queue, those that run write a checkpoint and stop."""
    from deltalab.dispatch.cancel_command import run_cancel

    run_cancel(runs, trials, study)


@app.command()
def retry(
    trials: Annotated[list[str] | None, typer.Argument(help=f"{TRIAL} The newest study when left out.")] = None,
    runs: Runs = RUNS,
    study: Study = None,
    failed: Annotated[bool, typer.Option("--failed", help="Of a study, the failed trials only.")] = False,
    lost: Annotated[bool, typer.Option("--lost", help="Of a study, the lost trials only.")] = False,
    code: Annotated[
        str | None, typer.Option(help="submitted or current: which code, where it has changed since.")
    ] = None,
    launcher: Annotated[
        list[str] | None, typer.Option("--set", help="How to run, e.g. hydra/launcher=slurm; as before when left out.")
    ] = None,
) -> None:
    """Run trials again: failed and lost ones of a study, or those named by id or cell unless completed."""
    from deltalab.dispatch.retry import Retry, retry_trials

    asked = Retry(
        runs=runs.resolve(),
        texts=trials or [study or _study_or_newest(runs, None)],
        study=study,
        failed=failed,
        lost=lost,
        code=code,
        launcher=launcher or [],
        ask=_ask_which_code if sys.stdin.isatty() else None,
    )
    raise typer.Exit(retry_trials(asked))


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="A launched study.")],
    runs: Runs = RUNS,
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI.")] = None,
    fresh: Annotated[bool, typer.Option(help="Write new MLflow runs instead of continuing.")] = False,
) -> None:
    """Bring MLflow up to date from the journals."""
    from deltalab.dispatch.mirror import sync_study
    from deltalab.spec.tracking import refuse_uri

    refuse_uri("--uri", uri)
    sync_study(_console(), runs, study, uri, fresh)


@app.command()
def dashboard(
    study: Annotated[str | None, typer.Argument(help="A launched study; the newest when left out.")] = None,
    runs: Runs = RUNS,
    uri: Annotated[str | None, typer.Option(help="A database that MLflow is mirrored to, or a server.")] = None,
    port: Annotated[int, typer.Option(help="Of 127.0.0.1.", min=1, max=65535)] = PORT,
) -> None:
    """Serve the runs in MLflow on this machine; print links to a study's curves and report."""
    from deltalab.spec.tracking import refuse_uri
    from deltalab.track.connection import tracking_uri
    from deltalab.track.dashboard import command, links, serve
    from deltalab.track.views import LOOPBACK, base_of

    refuse_uri("--uri", uri)
    if study is not None:
        study = measured_study(study)
        ledger.read_study(runs, study)
    where = tracking_uri(runs, uri)
    running = base_of(where)
    server = [] if running else command(runs, where, port)
    console = _console()
    base = running or f"http://{LOOPBACK}:{port}"
    for name, page, address in links(runs, [study] if study else ledger.list_studies(runs), where, base):
        console.print(f"{name} {page}: {address}", highlight=False, soft_wrap=True)
    if server:
        console.print(f"MLflow will be at {base} in some seconds; Ctrl-C ends it", highlight=False)
        sys.stdout.flush()
        serve(server)


@app.command()
def generate(
    trial: Annotated[str, typer.Argument(help=TRAINED)],
    prompts: Annotated[list[str], typer.Argument(help="Text; token ids, where the trial's task is no text.")],
    runs: Runs = RUNS,
    study: Study = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens written at most.")] = SAMPLING.max_tokens,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token.")] = SAMPLING.temperature,
    top_p: Annotated[float, typer.Option(help="Probability of the tokens drawn from.")] = SAMPLING.top_p,
    seed: Annotated[
        int | None, typer.Option(help="Of the draws; other ones every time when left out.")
    ] = SAMPLING.seed,
    stop: Annotated[list[str] | None, typer.Option(help="Text (or token) that ends it; may be given again.")] = None,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = Device.auto,
    as_json: Json = False,
) -> None:
    """Write on from prompts with a trained model."""
    from deltalab.exchange.terminal import Request, run_generate

    run_generate(
        Request(
            trial=trial,
            runs=runs,
            study=study,
            prompts=prompts,
            sampling=SamplingSpec(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed),
            stop=stop or [],
            device=device,
            as_json=as_json,
        )
    )


@app.command("eval")
def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="TRIAL... suite=SUITE [KEY=VALUE]...",
            help="Completed trials as elsewhere, folders of one, whole studies; then settings: "
            "suite=table2|table3|table4|small, and task=, lengths=, samples=, batch_size=, add_bos=, haystack=, "
            "max_length=, data_dir=.",
        ),
    ],
    runs: Runs = RUNS,
    study: Study = None,
    device: Annotated[Device | None, typer.Option(help="auto takes a GPU where there is one.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights; as trained when left out.")] = None,
    launcher: Annotated[
        list[str] | None,
        typer.Option("--set", help="How workers run, e.g. hydra/launcher=slurm; as the study ran when left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure trained models on a suite; their journals keep the results, and what they have is not measured again.

    One trial is measured here, several, or a study, by workers: a task of a trial at a time, on as many GPUs or Slurm
    tasks as the launcher has."""
    from deltalab.spec.suite import read_settings, split_settings

    trials, settings = split_settings(what)
    suite = read_settings(settings)
    from deltalab.exchange.evaluate import Request, run_eval

    raise typer.Exit(
        run_eval(
            Request(
                trials=trials,
                runs=runs,
                study=study,
                suite=suite,
                device=device,
                dtype=dtype and dtype.value,
                launcher=launcher or [],
                as_json=as_json,
            )
        )
    )


@app.command()
def export(
    trial: Annotated[str, typer.Argument(help=TRAINED)],
    folder: Annotated[Path, typer.Argument(help="Where to; a new or an empty folder.")],
    runs: Runs = RUNS,
    study: Study = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights; as trained when left out.")] = None,
) -> None:
    """Write a trained model as a folder for Hugging Face's transformers (extra hf)."""
    from deltalab.hf.export import export as write

    write(trial, folder, runs, study, dtype and dtype.value)
    _console().print(
        f"{folder}: import deltalab.hf, then AutoModelForCausalLM.from_pretrained reads it",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def gc(
    runs: Runs = RUNS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    trials: Annotated[bool, typer.Option("--trials", help="Also run directories that no study names.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable; never asks.")] = False,
) -> None:
    """List what nothing in the runs folder needs any more, and remove it when told to."""
    from deltalab.dispatch.garbage_command import run_gc

    raise typer.Exit(run_gc(runs, yes, trials, as_json))


@app.command()
def doctor(
    runs: Runs = RUNS,
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI.")] = None,
    as_json: Json = False,
) -> None:
    """Say what works on this machine and how to mend what does not."""
    from deltalab.dispatch.doctor.run import run_doctor
    from deltalab.spec.tracking import refuse_uri

    refuse_uri("--uri", uri)
    raise typer.Exit(run_doctor(runs, uri, as_json))


def main() -> None:
    """Entry point; mistakes are one line with exit code 2, failures 1."""
    run_app(app, "deltalab")


def _study_or_newest(runs: Path, study: str | None) -> str:
    found = study or ledger.newest_study(runs)
    if found is None:
        raise NotFoundError(f"runs={runs}: no study was launched from here; start with python launch.py -m study=NAME")
    return found


def _ask_which_code(files: list[str]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Prompt.ask(f"{files[0]}{more} changed since; run which code?", choices=["submitted", "current"])


def _console() -> Console:
    from deltalab.dispatch.show import make_console

    return make_console()
