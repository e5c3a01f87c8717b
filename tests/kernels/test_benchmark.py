"""The benchmark's verdict on the times it measured; the times themselves are not tested."""

import pytest
import torch

from benchmarks import chunk_cpu

FAST = {"chunk": 1.0, "plain": 1.5, "reference": 40.0, "matrix": 1.0}


@pytest.mark.parametrize(
    ("time", "change", "said"),
    [
        (512, {}, []),
        (512, {"reference": 10.0}, []),
        (512, {"reference": 9.9}, ["9.9 times as fast as the reference; must be at least 10"]),
        (1024, {"plain": 1.0}, ["1.00 times as fast as the same algebra under autograd; must be above 1"]),
        (64, {"reference": 2.0, "plain": 0.5}, []),
    ],
)
def test_what_a_row_is_too_slow_in(time: int, change: dict[str, float], said: list[str]):
    problem = chunk_cpu.Problem("kda", 4, time, 2, 16)
    assert chunk_cpu.shortfalls(problem, FAST | change) == [f"kda 4×{time}×2×16: {what}" for what in said]


@pytest.mark.parametrize("slow", [False, True])
def test_a_slow_row_fails_and_is_named(slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(chunk_cpu, "measure", lambda *_: FAST | ({"reference": 3.0, "plain": 0.9} if slow else {}))
    assert chunk_cpu.main(["--quick", f"--threads={torch.get_num_threads()}"]) == slow
    out, err = capsys.readouterr()
    assert "gated_delta_net_2" in out
    assert [line.split(": ")[:2] for line in err.splitlines()] == [["chunk_cpu", "kda 4×512×2×16"]] * (2 * slow)
