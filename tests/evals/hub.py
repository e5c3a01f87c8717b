"""A few rows of every data set of the paper's tables, in folders of the hub's form: OWNER/NAME with a README that says
which files are which configuration and split. The rows are made up; their fields are those of the hub's."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants

Rows = list[dict[str, Any]]

CHOICES = {"text": ["a stone", "a river", "the wind", "a tree"], "label": ["A", "B", "C", "D"]}
ARC: Rows = [
    {"id": "1", "question": "What flows to the sea?", "choices": CHOICES, "answerKey": "B"},
    {"id": "2", "question": "What grows leaves?", "choices": CHOICES, "answerKey": "D"},
]
PAGE = "Film guide. The Long Day. Director: Ann Lee. Rating: PG. Summary of information above... Rating: PG. director:"
ROWS: dict[tuple[str, str, str], Rows] = {
    ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test"): [
        {"page": " = Robert = \n Robert is an actor , born in 1970 @-@ 71 . \n"},
        {"page": " = Rain = \n Rain falls . It is water .  \n = = Kinds = = \n There are few .\n"},
        {"page": " = Sea = \n The sea is wide .\n"},
    ],
    ("EleutherAI/lambada_openai", "default", "test"): [
        {"text": "the dog saw the cat and ran after the cat"},
        {"text": "she gave him a book and he read the book"},
    ],
    ("baber/piqa", "default", "train"): [{"goal": "never read", "sol1": "x", "sol2": "y", "label": 0}],
    ("baber/piqa", "default", "validation"): [
        {"goal": "keep bread fresh", "sol1": "put it in a box", "sol2": "put it in the rain", "label": 0},
        {"goal": "light a dark room", "sol1": "close the door", "sol2": "open the window blind", "label": 1},
        {"goal": "dry a shirt", "sol1": "hang it in the sun", "sol2": "hang it in the sea", "label": 0},
    ],
    ("Rowan/hellaswag", "default", "validation"): [
        {
            "ind": 1, "activity_label": "Baking", "ctx_a": "A man mixes dough.", "ctx_b": "he", "ctx": "unused",
            "endings": ["bakes bread.", "flies away.", "sings [title] a song.", "paints it."], "label": "0",
        },
        {
            "ind": 2, "activity_label": "Rowing", "ctx_a": "A boat is on a lake.", "ctx_b": "she", "ctx": "unused",
            "endings": ["eats snow.", "pulls the oars.", "reads.", "is a cake."], "label": "1",
        },
    ],
    ("allenai/winogrande", "winogrande_xl", "validation"): [
        {"sentence": "The cup fell off as _ was wet.", "option1": "the cup", "option2": "the table", "answer": "2"},
        {"sentence": "Ann thanked Eve, for _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    ],
    ("allenai/ai2_arc", "ARC-Easy", "test"): ARC,
    ("allenai/ai2_arc", "ARC-Challenge", "test"): ARC[::-1],
    ("allenai/openbookqa", "main", "test"): [
        {"id": "1", "question_stem": "Moss grows where there is", "choices": CHOICES, "answerKey": "D"},
        {"id": "2", "question_stem": "Sand is made of", "choices": CHOICES, "answerKey": "A"},
    ],
    ("lighteval/siqa", "default", "validation"): [
        {
            "context": "Kai lent Robin a pen.", "question": "How would Robin feel?", "answerA": "thankful",
            "answerB": "angry", "answerC": "hungry", "label": "1",
        },
        {
            "context": "Jo missed the bus.", "question": "What happens next?", "answerA": "Jo flies",
            "answerB": "Jo walks", "answerC": "Jo sleeps", "label": "2",
        },
    ],
    ("aps/super_glue", "boolq", "validation"): [
        {"question": "is ice cold", "passage": "Ice is frozen water.", "idx": 0, "label": 1},
        {"question": "is fire wet", "passage": "Fire is hot and dry.", "idx": 1, "label": 0},
        {"question": "is rain dry", "passage": "Rain is water that falls.", "idx": 2, "label": 0},
    ],
    ("hazyresearch/based-swde-v2", "default", "validation"): [
        {"doc_id": "1", "text": PAGE, "key": "director", "value": "Ann Lee"},
        {"doc_id": "2", "text": PAGE, "key": "rating", "value": "G"},
    ],
    ("hazyresearch/based-squad", "default", "validation"): [
        {"doc_id": "1", "text": "The tower is in Paris. The tower stands in ", "value": "Paris"},
        {"doc_id": "2", "text": "The bell weighs a ton. The weight of the bell is", "value": "a ton"},
    ],
    ("hazyresearch/based-fda", "default", "validation"): [
        {"doc_id": "1", "text": "510(k) K123. Device: pump.\npurpose:", "key": "purpose", "value": "clearance"},
    ],
    ("hazyresearch/based_triviaqa", "default", "validation"): [
        {
            "doc_id": "1", "context": "[DOC] [TLE] Moon [PAR] The moon is far. Who walked there?",
            "question": "Who walked there?", "answers": ["Neil Armstrong", "Armstrong"],
        },
    ],
    ("hazyresearch/based_nq_2048", "default", "validation"): [
        {
            "context": "The song was written by Lee. who wrote the song", "question": "who wrote the song",
            "answers": ["Lee"], "alt_answers": ["Bruce Lee"], "tok_pos": 7,
        },
    ],
    ("hazyresearch/based_drop", "default", "validation"): [
        {"context": "They ran 3 yards, then 4.", "question": "How many yards in all?", "answers": ["7", "seven"]},
    ],
    ("baber/paul_graham_essays", "default", "train"): [{"text": "One essay."}, {"text": "Another\nof words."}],
}  # fmt: skip
"""By repository, configuration and split."""
LINES = ("EleutherAI/lambada_openai", "hazyresearch/based_drop", "Rowan/hellaswag")
"""Repositories whose rows are lines of JSON; those of the others are parquet."""


def make_hub(folder: Path) -> Path:
    """Write all of them; returns the folder."""
    configs: dict[str, dict[str, list[dict[str, str]]]] = {}
    for (hub, config, split), rows in ROWS.items():
        name = f"data/{config}-{split}" + (".jsonl" if hub in LINES else ".parquet")
        file = folder / hub / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if hub in LINES:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), file)
        configs.setdefault(hub, {}).setdefault(config, []).append({"split": split, "path": name})
    for hub, named in configs.items():
        said = {"configs": [{"config_name": config, "data_files": files} for config, files in named.items()]}
        (folder / hub / "README.md").write_text(f"---\n{yaml.safe_dump(said)}---\n\n# {hub}\n")
    return folder


REVISION = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    """What the hub's client asks for data sets: what there is, and the files."""

    folder: Path

    def do_GET(self) -> None:
        _, *parts = urlsplit(self.path).path.split("/")
        if parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets" and parts[3:5] == ["resolve", REVISION]:
            self._file(self.folder.joinpath(*parts[1:3], *parts[5:]))
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _api(self, hub: str, more: list[str]) -> None:
        if not (self.folder / hub).is_dir():
            self.send_error(404)
        elif more[:1] == ["tree"]:
            self._json(self._tree(hub))
        else:
            files = [{"rfilename": entry["path"]} for entry in self._tree(hub)]
            self._json({"id": hub, "sha": REVISION, "private": False, "siblings": files})

    def _tree(self, hub: str) -> list[dict[str, Any]]:
        root = self.folder / hub
        return [
            {"type": "file" if path.is_file() else "directory", "path": str(path.relative_to(root)), "oid": "0" * 40,
             "size": path.stat().st_size}
            for path in sorted(root.rglob("*"))
        ]  # fmt: skip

    def _json(self, plain: Any) -> None:
        self._send(json.dumps(plain).encode(), "application/json")

    def _file(self, path: Path) -> None:
        if path.is_file():
            self._send(path.read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        for name, value in {"Content-Type": kind, "ETag": etag, "X-Repo-Commit": REVISION}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def served(folder: Path, cache: Path) -> Iterator[None]:
    """Reach, instead of the hub, a server with the repositories of a folder.

    Args:
        folder: what ``make_hub`` made.
        cache: of the hub's client.
    """
    handler = type("Handler", (_Handler,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hub_at(patch, f"http://127.0.0.1:{server.server_port}", cache)
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def hub_at(patch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """What ``HF_ENDPOINT`` and ``HF_HOME`` do for a process that begins."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(datasets.config, "HF_ENDPOINT", address)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
