"""Just read twice: the cut, the prompts, what is dropped and what counts as right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from deltalab.data.tokens import BPEEncoder, ByteEncoder, GivenEncoder
from deltalab.errors import ConfigError
from deltalab.evals.read_twice import ANSWER, TASKS, ReadTwice, cut, measure_read_twice, read_twice_units
from deltalab.evals.sets import Kept, find
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.suite import Suite, SuiteSpec
from tests.evals.hub import REVISION, ROWS
from tests.specs import trial

BYTES = ByteEncoder(257)
AROUND = ReadTwice(around=("answers",))


def asked(**changed: Any) -> SuiteSpec:
    return SuiteSpec(**{"suite": Suite.table4, **changed})


def window(
    document: str, row: dict[str, Any], room: int, task: ReadTwice = AROUND, begin: tuple[int, ...] = ()
) -> str | None:
    return cut(document, row, task, BYTES, begin, room)


def test_the_cut_is_made_around_the_answer():
    document = "a" * 50 + "GOLD" + "b" * 50
    assert window(document, {"answers": ["gold"]}, 20) == "a" * 10 + "GOLD" + "b" * 6
    assert window(document, {"answers": ["gold"]}, 21) == "a" * 10 + "GOLD" + "b" * 7
    assert window("aGOLD" + "b" * 50, {"answers": ["gold"]}, 20) == "aGOLD" + "b" * 15
    assert window("a" * 50 + "GOLD", {"answers": ["gold"]}, 20) == "a" * 10 + "GOLD"  # no more before it instead
    assert window("aGOLDb", {"answers": ["gold"]}, 20) == "aGOLDb"


def test_a_beginning_takes_a_token_of_the_cut():
    """Counted where tokenizers count theirs: before the document, and before what precedes the answer."""
    document = "a" * 50 + "GOLD" + "b" * 50
    assert window(document, {"answers": ["gold"]}, 20, begin=(256,)) == "a" * 10 + "GOLD" + "b" * 6
    assert window("GOLD" + "b" * 50, {"answers": ["gold"]}, 20, begin=(256,)) == "GOLD" + "b" * 15


def test_the_first_of_key_and_value():
    task, row = TASKS["fda"], {"key": "name", "value": "pump"}
    assert window("x" * 30 + "Pump" + "x" * 30 + "name", row, 8, task) == "xxxxPump"
    assert window("x" * 30 + "Name" + "x" * 30 + "pump", row, 8, task) == "xxxxName"


def test_other_answers_then_the_known_place_then_the_end():
    document = "a" * 20 + "SECOND" + "b" * 20 + "THIRD" + "c" * 20
    row: dict[str, Any] = {"answers": ["first", "third"], "alt_answers": ["none", "third", "second"], "tok_pos": 3}
    assert window(document, row, 10) == "bbbbbTHIRD"
    del row["alt_answers"]
    assert window(document, row, 10) == document[:10]
    assert window(document, row, 90) == document[len(document) - 46 :]  # a document that has room goes by its end
    assert window(document, {"answers": ["first"], "tok_pos": None}, 10) == "c" * 6


def test_without_an_anchor_the_head_stays():
    assert window("abcdefghij", {"answers": ["j"]}, 4, TASKS["drop"]) == "abcd"


def test_dropped():
    for row in ({"key": "k", "value": "long"}, {"key": "long", "value": ""}, {"key": "long", "value": "v"}):
        assert window("k long v", row, 9, TASKS["swde"]) is None
    assert window("a", {"answers": []}, 9) is None
    assert window("a", {"answers": ["a"]}, 9, TASKS["triviaqa"]) == "a"


def test_a_character_in_two_is_left_out():
    assert window("ßßßß", {"answers": ["ß"]}, 3, TASKS["drop"]) == "ß"


def test_a_cut_in_tokens_of_a_vocabulary():
    encoder = BPEEncoder.learn(300, ["the river is wide and the sea is deep"] * 9)
    document = "the river is wide and the sea is deep " * 20 + "end"
    text = cut(document, {"answers": ["end"]}, AROUND, encoder, [], 12)
    assert text is not None
    assert document.endswith(text)
    assert 6 <= len(encoder.encode_text(text)) <= 12


def test_a_vocabulary_that_writes_spaces_before_words():
    """As SentencePiece's: what has room comes out as it went in, what has none begins with a word."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(["the river is wide and the sea is deep"] * 9, trainer)
    encoder = GivenEncoder(tokenizer, "<s>", None)
    document = "the river is wide and the sea is deep"
    assert cut(document, {"answers": ["sea"]}, AROUND, encoder, [encoder.end], 99) == document
    part = cut(document, {"answers": ["sea"]}, AROUND, encoder, [encoder.end], 4)
    assert part is not None
    assert part in document
    assert part == part.strip()


PROMPTS = {
    "swde": ["Film guide. The Long Day. Director: Ann Lee. Rating: PG. Director:"],
    "squad": ["The tower is in Paris. The tower stands in", "The bell weighs a ton. The weight of the bell is"],
    "fda": ["510(k) K123. Device: pump. Purpose:"],
    "triviaqa": ["Moon  The moon is far. Who walked there?"],
    "nq": ["The song was written by Lee. who wrote the song"],
    "drop": ["They ran 3 yards, then 4. How many yards in all?"],
}


class Reader(LanguageModel):
    """A model that writes what a rule makes of each prompt."""

    def __init__(self, write: Callable[[str], bytes]) -> None:
        spec = trial("data=text")
        super().__init__(spec.variant, spec.model)
        self.write, self.prompts = write, []

    def prefill(self, tokens_BT: torch.Tensor, cu_seqlens=None, length=None):
        rows = (
            tokens_BT.tolist()
            if cu_seqlens is None
            else [part.tolist() for part in tokens_BT[0].tensor_split(cu_seqlens[1:-1])]
        )
        self.read = [bytes(token for token in row if token < 256).decode() for row in rows]
        self.prompts += [(row[0], text) for row, text in zip(rows, self.read, strict=True)]
        self.steps = 0
        return self._next(), None

    def step(self, tokens_N: torch.Tensor, cache: object) -> torch.Tensor:
        self.steps += 1
        return self._next()

    def _next(self) -> torch.Tensor:
        plans = [self.write(text) for text in self.read]
        tokens = [plan[self.steps] if self.steps < len(plan) else ord("-") for plan in plans]
        return torch.nn.functional.one_hot(torch.tensor(tokens), 257).float()


@pytest.mark.parametrize("name", TASKS)
def test_prompts(name: str, prepared: Path):
    model = Reader(lambda text: b"\n")
    measure_read_twice(model, name, find(name, str(prepared)), BYTES, asked(batch_size=1))
    longest_first = sorted(PROMPTS[name], key=lambda text: -len(text))
    assert model.prompts == [(BYTES.end, text) for text in longest_first]


@pytest.mark.parametrize(
    ("written", "right"),
    [
        (b" It was NEIL ARMSTRONG", 1),
        (b" armstrong", 1),
        (b" Arm\nstrong Armstrong", 0),
        (b"\n Armstrong", 0),
        (b"-" * 39 + b"Armstrong", 1),
        (b"-" * 40 + b"Armstrong", 0),
    ],
)
def test_right_is_a_gold_in_the_line_of_48_tokens(written: bytes, right: int, prepared: Path):
    values = measure_read_twice(
        Reader(lambda text: written), "triviaqa", find("triviaqa", str(prepared)), BYTES, asked()
    )
    assert values["accuracy"] == right


def test_figures(prepared: Path, tmp_path: Path):
    """Of three pages one is dropped; of two that are cut or not, one is answered."""
    row = ROWS["hazyresearch/based-swde-v2", "default", "validation"]
    long = {**row[0], "text": "y" * 400 + row[0]["text"]}
    rows = [row[1], row[0], long]
    kept = Kept(file=tmp_path / "swde.parquet", manifest={})
    pq.write_table(pq.read_table(find("swde", str(prepared)).file).from_pylist(rows), kept.file)
    model = Reader(lambda text: b" no one" if text.startswith("y") else b" Ann Lee")
    values = measure_read_twice(model, "swde", kept, BYTES, asked(max_length=ANSWER + 100))
    assert values == {"samples": 2, "dropped": 1, "accuracy": 0.5, "stderr": 0.5, "cut": 0.5}
    values = measure_read_twice(model, "swde", kept, BYTES, asked(samples=1))
    assert values == {"samples": 0, "dropped": 1}


def test_a_real_model(prepared: Path):
    spec = trial("data=text", "variant=kda")
    model = LanguageModel(spec.variant, spec.model).eval()
    initialise(model, spec.model, 0)
    (unit,) = read_twice_units(asked(task=("squad",), data_dir=str(prepared)), BYTES)
    assert unit.name == "table4/squad"
    assert unit.identity == {
        "task": "squad", "version": 1, "samples": None, "max_length": 2048, "add_bos": True,
        "data": {"hub": "hazyresearch/based-squad", "config": "default", "split": "validation", "revision": REVISION},
    }  # fmt: skip
    values = unit.run(model)
    assert (values["samples"], values["dropped"], values["cut"]) == (2, 0, 0)
    assert 0 <= values["accuracy"] <= 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": ("nq_open",)}, "task=nq_open: allowed is one of swde, squad, fda, triviaqa, nq, drop"),
        ({"lengths": (2048,)}, "lengths=2048: allowed is none with suite=table4; max_length says"),
        ({"max_length": 100}, "max_length=100: allowed is from 101 with suite=table4"),
        (
            {"data_dir": "nowhere"},
            "data_dir=nowhere: allowed is a folder that deltalab prepare-eval suite=table4 out=DIR",
        ),
    ],
)
def test_mistakes(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as caught:
        read_twice_units(asked(**changed), BYTES)
    assert str(caught.value).startswith(said)
