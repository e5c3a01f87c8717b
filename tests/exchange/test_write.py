"""Text as it is written: whole characters, ends at stop texts, what the terminal shows."""

import json
from pathlib import Path

import pytest

import deltalab
from deltalab import cli
from deltalab.data.tokens import BPEEncoder, ByteEncoder, byte_alphabet
from deltalab.errors import UsageError
from deltalab.exchange.codec import IdCodec, TextCodec
from deltalab.exchange.write import Written, write
from deltalab.model.generate import generate
from deltalab.spec.sampling import SamplingSpec
from deltalab.study import ledger
from tests.exchange.trained import BPE, LEARNT_FROM, TEXT, trained


def shown(written: Written, text: str) -> list[str]:
    """What each byte of a text completes, up to its end."""
    pieces = []
    for byte in text.encode():
        pieces.append(written.add(byte, bytes([byte])))
        if written.over:
            return pieces
    return [*pieces, written.close()]


def test_characters_come_whole() -> None:
    assert shown(Written(set(), []), "aλ€") == ["a", "", "λ", "", "", "€", ""]


@pytest.mark.parametrize(
    ("text", "stops", "want"),
    [
        ("one\ntwo", ["\n"], "one"),
        ("aabaac", ["aac"], "aab"),
        ("ababab", ["abc"], "ababab"),
        ("x λ y", ["λ"], "x "),
        ("abcd", ["cd", "bc"], "a"),
        ("ab", ["ab"], ""),
    ],
)
def test_a_stop_text_ends_it_and_is_not_shown(text: str, stops: list[str], want: str) -> None:
    written = Written(set(), [stop.encode() for stop in stops])
    pieces = shown(written, text)
    assert "".join(pieces) == written.text == want
    assert written.over


def test_what_may_begin_a_stop_text_waits() -> None:
    assert shown(Written(set(), [b"ab!"]), "aab?")[:4] == ["", "a", "", "ab?"]


def test_the_end_of_a_document_ends_it() -> None:
    written = Written({256}, [b"ab"])
    assert [written.add(97, b"a"), written.add(256, b"")] == ["", "a"]
    assert (written.over, written.tokens) == (True, [97])


def test_half_a_character_at_the_end_is_marked() -> None:
    written = Written(set(), [])
    assert written.add(0xCE, b"\xce") + written.close() == "\ufffd"


def test_bytes_of_a_learnt_encoding_are_its_texts() -> None:
    encoder = BPEEncoder.learn(300, LEARNT_FROM)
    for text in (*LEARNT_FROM, "\x00\x7f\xad never seen €"):
        assert b"".join(map(encoder.bytes_of, encoder.encode_text(text))).decode() == text
    assert encoder.bytes_of(299) == b""
    assert sorted(byte_alphabet().values()) == list(range(256))


def test_prompts_and_stops_of_each_kind() -> None:
    text, ids = TextCodec(ByteEncoder(257)), IdCodec()
    assert text.encode("aλ") == [97, 0xCE, 0xBB]
    assert text.encode("") == [256]
    assert text.stops(["\n"]) == ({256}, [b"\n"])
    assert ids.encode(" 3,1  2") == [3, 1, 2]
    assert ids.stops(["4", "5"]) == ({4, 5}, [])
    for wrong in ("", "three", "-1", "1.5"):
        with pytest.raises(UsageError, match="allowed is token ids"):
            ids.encode(wrong)
    with pytest.raises(UsageError, match="stop=x: allowed is a token id"):
        ids.stops(["x"])
    with pytest.raises(UsageError, match="stop: an empty text"):
        text.stops([""])


def test_a_batch_is_written_as_each_alone(tmp_path: Path) -> None:
    spec = trained(tmp_path, *TEXT)
    model, codec = deltalab.load(ledger.trial_dir(tmp_path, spec.trial_id)), TextCodec(ByteEncoder(257))
    prompts, sampling = ["def f(", "", "λ"], SamplingSpec(max_tokens=20)
    tokens = generate(model, [codec.encode(prompt) for prompt in prompts], sampling, {256})
    last = {row: written for row, _, written in write(model, codec, prompts, sampling)}
    assert [last[row].tokens for row in range(3)] == tokens
    assert [last[row].text for row in range(3)] == [bytes(t).decode(errors="replace") for t in tokens]
    assert len({one.text for one in last.values()}) == 3


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["deltalab", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code in (None, 0), captured.err
    return captured.out


def test_the_command_shows_prompts_in_order_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained(tmp_path, *BPE)
    asked = ["generate", spec.trial_id[:6], "größe", "value = ", "λ", "--runs", str(tmp_path), "--max-tokens", "9"]
    rows = json.loads(run(capsys, monkeypatch, *asked, "--json"))
    assert [row["prompt"] for row in rows] == ["größe", "value = ", "λ"]
    assert all(len(row["tokens"]) == 9 for row in rows)
    assert run(capsys, monkeypatch, *asked) == "\n\n".join(row["prompt"] + row["text"] for row in rows) + "\n"
    warm = ["--temperature", "2", "--top-p", "0.9", "--seed"]
    drawn = [run(capsys, monkeypatch, *asked, *warm, seed) for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    early = rows[1]["text"][2:4]
    stopped = json.loads(run(capsys, monkeypatch, *asked, "--json", "--stop", early))
    assert stopped[1]["text"] == rows[1]["text"].split(early)[0]


def test_a_trial_without_text_takes_and_shows_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained(tmp_path, "data=recall")
    model = deltalab.load(spec.trial_id, runs=tmp_path)
    (want,) = generate(model, [[3, 40, 5]], SamplingSpec(max_tokens=4))
    out = run(capsys, monkeypatch, "generate", spec.trial_id, "3 40 5", "--runs", str(tmp_path), "--max-tokens", "4")
    assert out == f"3 40 5 {' '.join(map(str, want))}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no words"], "deltalab: prompt 'no words': allowed is token ids"),
        (["99"], "deltalab: prompt 1: token 99; allowed is 0 to 63"),
        (["3", "--top-p", "0"], "deltalab: top_p=0.0: allowed is a number above 0, up to 1"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    spec = trained(tmp_path, "data=recall")
    monkeypatch.setattr("sys.argv", ["deltalab", "generate", spec.trial_id, *arguments, "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.startswith(said)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
