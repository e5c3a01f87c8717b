"""The GPU benchmark's bytes, rows and budget, and the command where there is no GPU; no time is tested."""

import io
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.kernels import __main__ as command
from benchmarks.kernels import decode
from benchmarks.kernels import problem as problems
from benchmarks.kernels.budget import Budget, OutOfTime
from benchmarks.kernels.rows import (
    SHAPES,
    VARIANTS,
    Row,
    Shape,
    backward_bytes,
    cells,
    forward_bytes,
    leaves,
    markdown,
    parse_shape,
    table_of,
)

SMALL = Shape(1, 2, 1, 4)
"""8 elements in q, k, v, o and a channel-wise gate, 2 in a scalar one."""
TINY = Shape(1, 70, 2, 8)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("gated_delta_net_2", 3 * 16 + 32 + 16 + 16),
        ("kda", 3 * 16 + 32 + 4),
        ("gated_delta_net", 3 * 16 + 8 + 4),
        ("delta_net", 3 * 16 + 4),
        ("erase_only", 3 * 16 + 32 + 16 + 4),
        ("write_only", 3 * 16 + 32 + 4 + 16),
        ("gated_linear_attention", 3 * 16 + 32),
    ],
)
def test_bytes_counted_by_hand(name: str, inputs: int):
    """q, k, v: 16 bytes each; g: 4 bytes an element; other gates: 2. o and dO: 16."""
    assert forward_bytes(VARIANTS[name], SMALL) == inputs + 16
    assert backward_bytes(VARIANTS[name], SMALL) == inputs + 16 + inputs


@pytest.mark.parametrize("name", VARIANTS)
def test_bytes_are_those_of_the_tensors(name: str):
    problem = problems.problem_of(VARIANTS[name], TINY, "cpu", 1)
    o = problem.forward(problems.ours, 0)
    tensors = [*problem.sets[0].values(), o]
    assert sum(x.numel() * x.element_size() for x in tensors) == forward_bytes(VARIANTS[name], TINY)
    assert [x.shape for x in problem.sets[0].values()] == [size for size, _ in leaves(VARIANTS[name], TINY).values()]


def test_the_most_important_come_first():
    assert list(VARIANTS)[:4] == ["gated_delta_net_2", "kda", "gated_delta_net", "delta_net"]
    assert [bool(variant.peer) for variant in VARIANTS.values()] == [True] * 4 + [False] * 3
    assert str(SHAPES[0]) == "4x4096x16x128"


def test_shapes_are_read_as_they_are_written():
    assert [parse_shape(str(shape)) for shape in SHAPES] == list(SHAPES)


@pytest.mark.parametrize("text", ["4x4096x16", "4x0x16x128", "2x100x1x16/3", "1x4x1x16/5", "axbxcxd"])
def test_a_shape_that_cannot_be_is_refused(text: str):
    with pytest.raises(ValueError, match=f"^shape: '{text}'; "):
        parse_shape(text)


def test_packed_sequences_fill_the_row_unevenly():
    shape = SHAPES[-1]
    bounds = shape.boundaries()
    assert bounds is not None
    lengths = [stop - start for start, stop in itertools.pairwise(bounds)]
    assert (len(lengths), sum(lengths), min(lengths) > 0) == (17, 32768, True)
    assert len(set(lengths)) > 10
    assert bounds == shape.boundaries()


def test_small_inputs_are_rotated_until_the_cache_cannot_hold_them():
    variant, cache = VARIANTS["gated_delta_net_2"], 50 * 2**20
    small = Shape(8, 1024, 4, 64)
    sets = problems.sets_of(variant, small, cache)
    assert sets * (forward_bytes(variant, small)) >= 4 * cache
    assert problems.sets_of(variant, SHAPES[3], cache) == 2
    problem = problems.problem_of(variant, TINY, "cpu", 3)
    seen: list[int] = []

    def call(inputs: dict[str, torch.Tensor], _: torch.Tensor | None) -> torch.Tensor:
        seen.append(id(inputs))
        return inputs["v"]

    for turn in range(4):
        problem.forward(call, turn)
    assert seen == [id(problem.sets[turn]) for turn in (0, 1, 2, 0)]


def row(who: str, **figures: Any) -> Row:
    return Row(shape="1x2x1x4", variant="kda", who=who, forward_floor=0.5, both_floor=2.0, **figures)


def test_a_row_says_times_floors_and_ratios():
    ours = row("ours", forward=1.0, both=6.0, both_host=0.25, forward_peak=2**20, both_peak=3 * 2**20)
    peer = row("fla", forward=1.5, both=None, difference=2e-3, error="TypeError: no")
    assert ours.line() == (
        "1x2x1x4 kda ours: forward 1.000 ms (2.00 × floor, 1 MiB) "
        "forward + backward 6.000 ms (3.00 × floor, host 0.250 ms, 3 MiB)"
    )
    assert cells([ours, peer]) == [
        ["1×2×1×4", "kda", "ours", "1.000", "", "2.00", "", "1", "6.000", "", "3.00", "0.250", "3", ""],
        [
            "1×2×1×4",
            "kda",
            "fla",
            "1.500",
            "1.50",
            "3.00",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "o differs by 2.0e-03; TypeError: no",
        ],
    ]
    assert (ours.figures()["both_over_floor"], peer.figures()["both_over_floor"]) == (3.0, None)
    assert len({line.count(" | ") for line in markdown([ours, peer]).splitlines()}) == 1


def test_an_error_with_brackets_is_shown_as_it_is():
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(table_of([row("fla", error="ValueError: shape [1, 2] [/red]")], "a GPU"))
    assert "ValueError: shape [1, 2] [/red]" in console.export_text()


def test_the_budget_is_heard_in_a_backward_pass():
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            time.sleep(30)
            return grads[0]

    x = torch.ones(3, requires_grad=True)
    with pytest.raises(OutOfTime), Budget(0.2).limit("fla"):
        torch.autograd.grad(Slow.apply(x).sum(), x)


def test_the_budget_breaks_off_what_takes_too_long():
    budget = Budget(0.2)
    with pytest.raises(OutOfTime), budget.limit("fla"):
        time.sleep(30)
    assert budget.left("fla") <= 0
    with pytest.raises(OutOfTime), budget.limit("fla"):
        pytest.fail("no time is left")
    time.sleep(0.05)  # the alarm is off


def raises(_: dict[str, torch.Tensor], __: torch.Tensor | None) -> torch.Tensor:
    raise TypeError("two\nlines")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., Any]]:
    """No GPU, but the figures one would give; the peers are ours again, one of them raises."""
    peers: dict[str, Callable[..., Any]] = dict.fromkeys(VARIANTS, problems.ours) | {"kda": raises}
    found = {variant.peer: peers[name] for name, variant in VARIANTS.items()}
    monkeypatch.setattr(command, "peer_of", lambda variant: found[variant.peer])
    monkeypatch.setattr(command, "missing_peer", lambda wanted: "" if wanted else "left out (--no-peer)")
    monkeypatch.setattr(command, "queued", lambda work: (work(0), (1.0, 0.5))[1])
    monkeypatch.setattr(command, "peak_bytes", lambda work: (work(0), 2**20)[1])
    monkeypatch.setattr(command, "copy_bandwidth", lambda: 1e6)
    monkeypatch.setattr(command, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = SimpleNamespace(name="a GPU", L2_cache_size=1, total_memory=2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return found


@pytest.mark.usefixtures("gpu")
def test_a_peer_that_raises_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "rows.json"
    chosen = ["kda", "gated_delta_net", "erase_only"]
    code = command.main(["--shapes", "1x70x2x8/3", "--variants", *chosen, "--json", str(file), "--markdown"])
    rows = json.loads(file.read_text())["rows"]
    assert code == 0
    assert [(r["variant"], r["who"]) for r in rows] == [
        ("kda", "ours"),
        ("kda", "fla"),
        ("gated_delta_net", "ours"),
        ("gated_delta_net", "fla"),
        ("erase_only", "ours"),
    ]
    assert [r["error"] for r in rows] == ["", "TypeError: two lines", "", "", ""]
    assert rows[3]["difference"] == 0
    assert rows[0]["both_peak"] == 2**20
    forward = forward_bytes(VARIANTS["kda"], Shape(1, 70, 2, 8, 3))
    assert rows[0]["forward_over_floor"] == pytest.approx(1e6 / forward)
    out = capsys.readouterr().out
    assert "1x70x2x8/3 kda fla: TypeError: two lines\n" in out
    assert "| 1×70×2×8/3 | gated_delta_net | fla | 1.000 | 1.00 |" in out


@pytest.mark.usefixtures("gpu")
def test_an_error_of_ours_fails_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(command, "ours", raises)
    assert command.main(["--shapes", "1x8x1x8", "--variants", "erase_only"]) == 1
    assert "TypeError: two lines" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_what_the_time_does_not_suffice_for_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(Budget, "left", lambda self, who: 60.0 if who == "ours" else 0.0)
    assert command.main(["--shapes", "1x8x1x8", "--variants", "delta_net"]) == 0
    out = capsys.readouterr().out
    assert "1x8x1x8 delta_net ours:" in out
    assert "left out, the time of 420 s (ours: 525 s) was spent: 1x8x1x8 delta_net fla" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_and_exit_code_2():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "kernels: needs a CUDA GPU, torch sees none here\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variants", "kda", "mamba"], "--variants mamba: allowed are gated_delta_net_2, kda, "),
        (["--shapes", "4x4"], "shape: '4x4'; must be BxTxHxD"),
        (["--seconds", "0"], "--seconds 0: must be above 0"),
        (["--json", "nowhere/rows.json"], "--json nowhere/rows.json: there is no folder nowhere"),
    ],
)
def test_a_wrong_option_is_refused_in_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"kernels: error: {said}")


def test_bytes_of_a_decoded_token_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "HEADS", 1)
    monkeypatch.setattr(decode, "WIDTH", 2)
    # state 2·2 floats both ways, q k v and o, 3 channels' past of 3 tokens both ways, g in fp32, b and w
    assert decode.moved_bytes(1, torch.float32) == 2 * 4 * 4 + 8 * 2 + 2 * 6 * 3 * 2 + 2 * 4 + 4 * 2


def test_decoding_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert decode.main([]) == 2
    assert capsys.readouterr().err == "decode: needs a CUDA GPU, torch sees none here\n"
