"""``deltalab cancel``: find the trials, cancel them, and say what became of each."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deltalab.dispatch import steer
from deltalab.dispatch.show import make_console
from deltalab.dispatch.states import Observer
from deltalab.track.journal import State


def run_cancel(runs: Path, texts: Sequence[str], study: str | None) -> None:
    """Cancel trials and print one line of what was done, and one more where jobs stay in Slurm's queue.

    Args:
        runs: the runs folder.
        texts: what names the trials, see ``steer.find``.
        study: where cells are looked for, the newest when None.

    Raises:
        NotFoundError: nothing is called so; nothing was cancelled.
    """
    named = {n.trial: n for text in texts for n in steer.find(runs, text, study)}
    observer, console = Observer(runs), make_console()
    done, asked, refused = steer.cancel(observer, list(named))
    ended = Counter(record.state for record in observer.records(named.keys() - {*done, *asked}).values())
    console.print(_told(len(done), len(asked), ended), highlight=False, soft_wrap=True)
    if refused:
        console.print(f"jobs stay in Slurm's queue until they find that out: {refused}", style="yellow", soft_wrap=True)


def _told(done: int, asked: int, ended: Counter[State]) -> str:
    """What was cancelled, what is asked to stop, what had ended, and how any of it is run again."""
    parts = [f"{done} cancelled"] if done else []
    parts += [f"{asked} running, asked to checkpoint and stop"] if asked else []
    said = ", ".join(f"{ended[state]} {state.value}" for state in State if ended[state])
    parts += [f"{ended.total()} had ended already ({said})"] if ended else []
    again = done or asked or set(ended) - {State.completed}
    which = "them again" if not ended[State.completed] else "again what is not completed"
    hint = f"; deltalab retry TRIAL, or a cell, runs {which}" if again else ""
    return ", ".join(parts) + hint
