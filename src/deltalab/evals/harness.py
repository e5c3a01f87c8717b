"""lm-eval's tasks on our models: its model interface, and its tasks read from the folders of ``evals.sets``.

Importing this imports lm-eval, which takes seconds; only where it is used.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lm_eval.api.task
import lm_eval.tasks
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from deltalab.data.cache import cache_root
from deltalab.data.tokens import Encoder
from deltalab.errors import ConfigError, UsageError
from deltalab.evals.continuations import score, write
from deltalab.evals.sets import Kept, quiet
from deltalab.model.language_model import LanguageModel
from deltalab.spec.sampling import SamplingSpec

LM_EVAL = version("lm_eval")
FOLDERS = ("arc", "hellaswag", "lambada", "openbookqa", "piqa", "siqa", "super_glue/boolq", "wikitext", "winogrande")
"""Where lm-eval has the tasks of Table 2: to look through all of its folders takes many seconds."""


class Harness(TemplateLM):
    """A model as lm-eval asks for one.

    Args:
        model: in eval mode.
        encoder: of the trial; its end of a document begins one, too.
        max_length: tokens read at a time: longer contexts lose their head, longer texts are scored in disjoint windows.
        add_bos: whether contexts and prompts begin a document; texts scored as a whole always do.
        batch_size: sequences of ``max_length`` read at a time; of shorter ones, as many more.
    """

    def __init__(
        self, model: LanguageModel, encoder: Encoder, *, max_length: int, add_bos: bool, batch_size: int
    ) -> None:
        super().__init__()
        self._model, self._encoder, self._room = model, encoder, batch_size * max_length
        self._max_length, self._begin = max_length, [encoder.end] if add_bos else []
        self.beheaded = 0
        """Contexts and prompts so far that were too long."""

    @property
    def eot_token_id(self) -> int:
        """The end of a document, which is what stands before its first token."""
        return self._encoder.end

    @property
    def tokenizer_name(self) -> str:
        """The kind of encoder and its size; lm-eval names caches by it, which are not used."""
        return f"{type(self._encoder).__name__}-{self._encoder.vocab_size}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """A text, with what begins a document before it if that was asked for."""
        return (self._begin if add_special_tokens is not False else []) + self._encoder.encode_text(string)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(context, continuation) → nats and whether greedy decoding writes it; without a bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = []
        for _, context, continuation in requests:
            if len(continuation) > self._max_length:
                raise ConfigError("max_length", self._max_length, f"from {len(continuation)}: tokens of a continuation")
            room = self._max_length + 1 - len(continuation)  # the last token is not read
            self.beheaded += len(context) > room
            pairs.append((context[-room:], continuation))
        return score(self._model, pairs, self._room)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """(text,) → nats of all of it, every window of ``max_length`` tokens by itself."""
        pairs, owners = [], []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(
                token_list=tokens, prefix_token=self.prefix_token_id, max_seq_len=self._max_length, context_len=1
            )
            for context, continuation in map(make_disjoint_window, windows):
                pairs.append((context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (nats, _) in zip(owners, score(self._model, pairs, self._room), strict=True):
            totals[owner] += nats
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """(prompt, settings) → what is written before the first of ``until``; settings as lm-eval's tasks have them."""
        groups: dict[tuple[tuple[str, ...], SamplingSpec], list[int]] = {}
        for number, request in enumerate(requests):
            _, settings = request.args  # pyright: ignore[reportAssignmentType]
            groups.setdefault(_generation(settings), []).append(number)
        texts = [""] * len(requests)
        for (until, sampling), numbers in groups.items():
            prompts = [self._prompt(requests[number].args[0], sampling.max_tokens) for number in numbers]
            written = write(self._model, self._encoder, prompts, until, sampling, self._room)
            for number, text in zip(numbers, written, strict=True):
                texts[number] = text
        return texts

    def _prompt(self, text: str, more: int) -> list[int]:
        tokens, room = self.tok_encode(text), self._max_length - more
        if room < 1:
            raise ConfigError("max_length", self._max_length, f"from {more + 1}: tokens written, and one before them")
        self.beheaded += len(tokens) > room
        return tokens[-room:] or [self.prefix_token_id]


def _generation(settings: dict[str, Any]) -> tuple[tuple[str, ...], SamplingSpec]:
    """Stops and sampling of lm-eval's generation settings; greedy unless they say ``do_sample``."""
    until = settings.get("until") or []
    sampled = settings.get("do_sample", False)
    drawn = {"temperature": settings.get("temperature", 1.0), "top_p": settings.get("top_p", 1.0), "seed": 0}
    sampling = SamplingSpec(max_tokens=settings.get("max_gen_toks", 256), **(drawn if sampled else {}))
    return (until,) if isinstance(until, str) else tuple(until), sampling


@functools.cache
def _tasks() -> TaskManager:
    root = Path(lm_eval.tasks.__file__).parent
    return TaskManager(include_path=[root / folder for folder in FOLDERS], include_defaults=False)


def _definition(name: str) -> tuple[Path, dict[str, Any]]:
    """File and content of a task's definition.

    Raises:
        UsageError: this lm-eval has it elsewhere.
    """
    entry = _tasks().task_index.get(name)
    if entry is None or entry.yaml_path is None or entry.cfg is None:
        raise UsageError(
            f"task={name}: not where lm-eval had it, in {LM_EVAL}; allowed is pip install 'deltalab[eval]'"
        )
    return entry.yaml_path, entry.cfg


def task_version(name: str) -> float:
    """The version that lm-eval gives a task of Table 2.

    Raises:
        UsageError: this lm-eval has it elsewhere.
    """
    return _definition(name)[1]["metadata"]["version"]


def read_task(name: str, kept: Kept) -> Task:
    """A task of Table 2 without examples in its prompts, its rows those of a folder, all else as lm-eval defines it.

    Args:
        name: lm-eval's.
        kept: its data set.
    """
    split = kept.manifest["split"]
    with TemporaryDirectory() as folder:
        changed = {
            "include": str(_definition(name)[0]),
            "task": name,
            "num_fewshot": 0,
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: str(kept.file)}, "cache_dir": str(cache_root() / "datasets")},
            **{f"{part}_split": split if part == split else None for part in ("training", "validation", "test")},
        }
        (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(changed))
        with _hushed():
            return TaskManager(include_path=folder, include_defaults=False).load([name])["tasks"][name]


def run_task(task: Task, lm: Harness, limit: int | None) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """A task, measured.

    Args:
        task: from ``read_task``.
        lm: the model.
        limit: rows, the first; None takes all.

    Returns:
        lm-eval's metrics, and by row what they were made of.
    """
    name = task.config.task
    measure: Any = lm_eval.evaluate  # its decorator hides its parameters from type checkers
    with _hushed():
        found = measure(lm, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0, log_samples=True)
    values = {key.partition(",")[0]: value for key, value in found["results"][name].items() if key.endswith(",none")}
    return {key: value for key, value in values.items() if isinstance(value, float | int)}, found["samples"][name]


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """lm-eval and ``datasets`` tell of each step, and of how tasks could be configured."""
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda rows, **_: rows
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
