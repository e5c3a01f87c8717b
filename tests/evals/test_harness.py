"""lm-eval's own tasks on a real model, read from prepared folders, against figures that are worked out here."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deltalab.data.tokens import ByteEncoder
from deltalab.errors import ConfigError, UsageError
from deltalab.evals.sets import LANGUAGE, find
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from tests.evals.hub import ROWS
from tests.specs import trial

harness = pytest.importorskip("deltalab.evals.harness", reason="lm-eval is not installed")
BYTES = ByteEncoder(257)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    spec = trial("data=text", "variant=gated_delta_net_2", "variant.pattern=[mixer,swa]", "model.window=6")
    model = LanguageModel(spec.variant, spec.model).eval()
    initialise(model, spec.model, 0)
    return model


@pytest.fixture
def make(model: LanguageModel) -> Callable[..., Any]:
    """Settings of a ``Harness`` → it."""

    def call(**changed: Any) -> Any:
        return harness.Harness(model, BYTES, **{"max_length": 2048, "add_bos": True, "batch_size": 4, **changed})

    return call


def nats(model: LanguageModel, before: list[int], text: str) -> float:
    """log p(text | tokens before it)."""
    after = list(text.encode())
    with torch.no_grad():
        scores = model(torch.tensor([[*before, *after]]))[0].log_softmax(-1)[len(before) - 1 : -1]
    return scores.gather(1, torch.tensor(after)[:, None]).sum().item()


def rows_of(name: str) -> list[dict[str, Any]]:
    wanted = LANGUAGE[name]
    return ROWS[wanted.hub, wanted.config or "default", wanted.split]


def options(name: str, row: dict[str, Any]) -> tuple[list[tuple[str, str]], int]:
    """(context, continuation) of each answer, and which is right, as evaluation harnesses ask these questions."""
    if name == "piqa":
        return [(f"Question: {row['goal']}\nAnswer:", f" {row[key]}") for key in ("sol1", "sol2")], row["label"]
    if name == "hellaswag":
        context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        endings = [ending.replace(" [title]", ". ").replace("  ", " ") for ending in row["endings"]]
        return [(context, f" {ending}") for ending in endings], int(row["label"])
    if name == "winogrande":
        head, tail = row["sentence"].split("_")
        return [(head + row[key], f" {tail.strip()}") for key in ("option1", "option2")], int(row["answer"]) - 1
    if name == "social_iqa":
        context = f"Q: {row['context']} {row['question']}\nA:"
        return [(context, f" {row[key]}") for key in ("answerA", "answerB", "answerC")], int(row["label"]) - 1
    if name == "boolq":
        context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
        return [(context, " no"), (context, " yes")], row["label"]
    context = row["question_stem"] if name == "openbookqa" else f"Question: {row['question']}\nAnswer:"
    right = row["choices"]["label"].index(row["answerKey"])
    return [(context, f" {text}") for text in row["choices"]["text"]], right


@pytest.mark.parametrize("name", [name for name in LANGUAGE if name not in ("wikitext", "lambada_openai")])
def test_choices(name: str, model: LanguageModel, make: Callable[..., Any], prepared: Path):
    expected: dict[str, list[bool]] = {"acc": [], "acc_norm": []}
    for row in rows_of(name):
        asked, right = options(name, row)
        found = [nats(model, [BYTES.end, *context.encode()], text) for context, text in asked]
        by_length = [one / len(text[1:]) for one, (_, text) in zip(found, asked, strict=True)]
        expected["acc"].append(found.index(max(found)) == right)
        expected["acc_norm"].append(by_length.index(max(by_length)) == right)
    values, rows = harness.run_task(harness.read_task(name, find(name, str(prepared))), make(), None)
    for metric in values:
        assert [row[metric] for row in rows] == expected[metric]
        assert values[metric] == sum(expected[metric]) / len(rows)
    assert "acc" in values
    assert ("acc_norm" in values) is (name not in ("winogrande", "social_iqa", "boolq"))


def test_last_words(model: LanguageModel, make: Callable[..., Any], prepared: Path):
    found = []
    for row in rows_of("lambada_openai"):
        context, word = row["text"].rsplit(" ", 1)
        found.append(nats(model, [BYTES.end, *context.encode()], f" {word}"))
    task = harness.read_task("lambada_openai", find("lambada_openai", str(prepared)))
    values, _ = harness.run_task(task, make(), None)
    assert values["perplexity"] == pytest.approx(math.exp(-sum(found) / len(found)), rel=1e-3)
    assert values["acc"] == 0


@pytest.mark.parametrize("window", [8, 2048])
def test_pages_in_windows(window: int, model: LanguageModel, make: Callable[..., Any], prepared: Path):
    """Every window behind the one token before it, the last behind as many as it has room for; words are the page's."""
    task = harness.read_task("wikitext", find("wikitext", str(prepared)))
    total, words = 0.0, 0
    for row, doc in zip(rows_of("wikitext"), task.eval_docs, strict=True):
        text = list(task.doc_to_target(doc).encode())
        for start in range(0, len(text), window):
            begin = min(start, max(0, len(text) - window))
            before = [BYTES.end, *text][begin : start + 1]
            total += nats(model, before, bytes(text[start : start + window]).decode())
        words += len(re.split(r"\s+", row["page"]))
    values, rows = harness.run_task(task, make(max_length=window, batch_size=3), None)
    assert len(rows) == 3
    assert values["word_perplexity"] == pytest.approx(math.exp(-total / words), rel=1e-3)


def test_the_first_rows(make: Callable[..., Any], prepared: Path):
    task = harness.read_task("piqa", find("piqa", str(prepared)))
    whole, rows = harness.run_task(task, make(), None)
    first, two = harness.run_task(task, make(batch_size=1), 2)
    assert (len(rows), len(two)) == (3, 2)
    assert [row["acc"] for row in two] == [row["acc"] for row in rows[:2]]
    assert whole.keys() == first.keys()


def test_tasks_and_data_sets_are_those_of_lm_eval():
    for name, wanted in LANGUAGE.items():
        _, cfg = harness._definition(name)
        assert (cfg["dataset_path"], cfg.get("dataset_name")) == (wanted.hub, wanted.config)
        assert wanted.split == (cfg.get("test_split") or cfg["validation_split"])
        assert harness.task_version(name) == cfg["metadata"]["version"]


def test_a_task_that_lm_eval_has_elsewhere():
    with pytest.raises(UsageError, match=r"task=mmlu: not where lm-eval had it, in 0\.4"):
        harness.task_version("mmlu")


def test_without_a_beginning(model: LanguageModel, make: Callable[..., Any]):
    request = [
        harness.Instance("loglikelihood", {}, ("ice is", " cold"), 0),
        harness.Instance("loglikelihood", {}, ("", "ice"), 0),
    ]
    with_it, without = make().loglikelihood(request), make(add_bos=False).loglikelihood(request)
    assert with_it[0][0] == pytest.approx(nats(model, [BYTES.end, *b"ice is"], " cold"), rel=1e-4)
    assert without[0][0] == pytest.approx(nats(model, [*b"ice is"], " cold"), rel=1e-4)
    assert with_it[1] == without[1]  # the end of a document stands before what has nothing before it


def test_a_long_context_loses_its_head(model: LanguageModel, make: Callable[..., Any]):
    lm = make(max_length=8)
    found = lm.loglikelihood([harness.Instance("loglikelihood", {}, ("0123456789", " yes"), 0)])
    assert found[0][0] == pytest.approx(nats(model, [*b"56789"], " yes"), rel=1e-4)
    assert lm.beheaded == 1
    with pytest.raises(ConfigError, match="max_length=3: allowed is from 4"):
        make(max_length=3).loglikelihood([harness.Instance("loglikelihood", {}, ("a", " yes"), 0)])


GENERATION = """
task: copy
dataset_path: parquet
dataset_kwargs: {{data_files: {{validation: {file}}}, cache_dir: {cache}}}
output_type: generate_until
validation_split: validation
doc_to_text: "{{{{context}}}} {{{{question}}}}"
doc_to_target: "{{{{answers[0]}}}}"
generation_kwargs: {{until: ["{stop}"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def test_generation(model: LanguageModel, make: Callable[..., Any], prepared: Path, tmp_path: Path):
    """A task of lm-eval's form that is generated: what greedy decoding over the whole text writes at each step."""
    file, row = find("drop", str(prepared)).file, ROWS["hazyresearch/based_drop", "default", "validation"][0]
    text = [BYTES.end, *f"{row['context']} {row['question']}".encode()]
    written: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            written.append(int(model(torch.tensor([text + written]))[0, -1].argmax()))
    expected = b"".join(map(BYTES.bytes_of, written)).decode(errors="replace")
    settings = {"file": file, "cache": tmp_path / "cache", "stop": "never"}
    (tmp_path / "copy.yaml").write_text(GENERATION.format(**settings))
    task = harness.TaskManager(include_path=str(tmp_path), include_defaults=False).load(["copy"])["tasks"]["copy"]
    lm = make()
    _, rows = harness.run_task(task, lm, None)
    assert rows[0]["resps"] == [[expected]]
    assert lm.beheaded == 0
    with pytest.raises(ConfigError, match="max_length=6: allowed is from 7"):
        harness.run_task(task, make(max_length=6), None)


@pytest.mark.parametrize(
    ("settings", "until", "sampling"),
    [
        ({"until": "\n"}, ("\n",), {"max_tokens": 256, "temperature": 0.0}),
        (
            {"until": ["a", "b"], "max_gen_toks": 5, "do_sample": False, "temperature": 0.7},
            ("a", "b"),
            {"temperature": 0.0},
        ),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, (), {"temperature": 0.7, "top_p": 0.9, "seed": 0}),
    ],
)
def test_generation_settings(settings: dict[str, Any], until: tuple[str, ...], sampling: dict[str, Any]):
    stops, found = harness._generation(settings)
    assert stops == until
    assert {key: getattr(found, key) for key in sampling} == sampling
