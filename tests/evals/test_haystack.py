"""Haystacks: prose that is there, files, and names that tell them apart."""

import json
from pathlib import Path

import pytest

from deltalab.errors import ConfigError
from deltalab.evals.haystack import read_haystack


def test_help_is_prose():
    haystack = read_haystack("help")
    assert len(haystack.words) > 10_000
    lines = haystack.text.split("\n")
    assert all(line.endswith(".") for line in lines)
    assert len(set(lines)) == len(lines)


def test_files(tmp_path: Path):
    plain, essays = tmp_path / "my text.txt", tmp_path / "Essays.json"
    plain.write_text("Grüße aus  dem\nHeu.")
    essays.write_text(json.dumps({"text": "Grüße aus dem Nadelkissen."}))
    one, other = read_haystack(str(plain)), read_haystack(str(essays))
    assert one.words == ["Grüße", "aus", "dem", "Heu."]
    assert other.words[-1] == "Nadelkissen."
    assert one.label.startswith("my_text-")
    assert other.label.startswith("Essays-")
    before = one.label
    plain.write_text("Grüße aus  dem\nHeuhaufen.")
    assert read_haystack(str(plain)).label != before


@pytest.mark.parametrize("content", [None, "", "[]", '{"text": 3}', "{"])
def test_no_text(tmp_path: Path, content: str | None):
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"^haystack=.*x\.json: allowed is ") as caught:
        read_haystack(str(file))
    assert "\n" not in str(caught.value)
