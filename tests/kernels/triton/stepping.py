"""A layer written out in fp64 torch, token after token, and the decode step on the same inputs."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.kernels.decode import conv_state_of
from deltalab.kernels.reference import gated_delta_rule as reference
from deltalab.kernels.triton.decode import decode_step
from tests.kernels.cases import rms_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ("none", "scalar", "channel")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A layer and its raw inputs for a few tokens, in fp64. The empty shape of a gate is none."""

    batch: int = 2
    time: int = 5
    heads: int = 2
    group: int = 2
    width: int = 8
    values: int = 12
    taps: int = 4
    kinds: tuple[str, str, str] = ("channel", "channel", "channel")
    raw: bool = True
    activate: bool = True

    @property
    def value_heads(self) -> int:
        return self.heads * self.group

    @property
    def channels(self) -> int:
        return 2 * self.heads * self.width + self.value_heads * self.values

    def inputs(self) -> dict[str, Tensor]:
        """qkv, g, b, w [B, T, …]; a, δ, the convolution's weight; the state."""
        random = torch.Generator().manual_seed(0)
        normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
        key, value = (self.heads, self.width), (self.value_heads, self.values)
        x = {"qkv": normal(self.batch, self.time, self.channels)}
        for name, kind, shape in zip("gbw", self.kinds, (key, key, value), strict=True):
            if kind != "none":
                gate = normal(self.batch, self.time, *shape)
                x[name] = gate if kind == "channel" else gate[..., 0]
        if not self.raw:
            x |= {name: -F.softplus(x[name]) if name == "g" else x[name].sigmoid() for name in "gbw" if name in x}
        if self.raw and "g" in x:
            x |= {"a": normal(self.heads), "delta": normal(*x["g"].shape[2:])}
        if self.taps:
            x["weight"] = normal(self.channels, self.taps)
        x["state"] = normal(self.batch, self.value_heads, self.width, self.values)
        return {name: leaf.float().double() for name, leaf in x.items()}

    def options(self, x: dict[str, Tensor]) -> dict[str, Any]:
        """The constants of a call."""
        options: dict[str, Any] = {"heads": self.heads, "silu": self.activate, "normalize": self.activate}
        if self.raw:
            options |= {"erase_range": 2.0, "write_sigmoid": True}
        if "a" in x:
            options["decay"] = (x["a"], x["delta"])
        return options


def layer(problem: Problem, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The whole sequence in plain torch: o [B, T, HV, V] and the final state."""
    q, k, v, g, b, w = rule_inputs(problem, x)
    o, state = reference(q, k, v, g, b, w, initial_state=x["state"], output_final_state=True)
    assert state is not None
    return o, state


def rule_inputs(problem: Problem, x: dict[str, Tensor]) -> tuple[Tensor | None, ...]:
    """q, k, v, g, b, w of the recurrence: convolution, SiLU, norm and gates written out."""
    y = x["qkv"]
    if problem.taps:
        padded = F.pad(y, (0, 0, problem.taps - 1, 0))
        y = torch.stack([padded[:, t : t + problem.taps] for t in range(problem.time)], 1)
        y = torch.einsum("btjc,cj->btc", y, x["weight"])
    if problem.activate:
        y = y * y.sigmoid()
    keys = problem.heads * problem.width
    q, k, v = y.split([keys, keys, problem.value_heads * problem.values], -1)
    q, k = (z.unflatten(-1, (problem.heads, -1)) for z in (q, k))
    if problem.activate:
        q, k = (z / (z.square().sum(-1, keepdim=True) + 1e-6).sqrt() for z in (q, k))
    g, b, w = (x.get(name) for name in "gbw")
    if problem.raw:
        if g is not None:
            rate = x["a"].exp() if g.dim() == 3 else x["a"].exp()[:, None]
            g = -rate * torch.log1p(torch.exp(g + x["delta"]))
        b = None if b is None else 2 * torch.sigmoid(b)
        w = None if w is None else torch.sigmoid(w)
    return q, k, v.unflatten(-1, (problem.value_heads, -1)), g, b, w


@dataclass
class Cache:
    """What a decode step updates."""

    state: Tensor
    past: Tensor | None
    arrivals: Tensor | None

    @property
    def arguments(self) -> dict[str, Any]:
        return {"state": self.state, "conv_state": self.past, "arrivals": self.arrivals}


def on_device(x: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Inputs as the kernel takes them: a, δ, the log-decay and the state stay in fp32."""
    exact = ("a", "delta", "g", "state")
    return {name: leaf.to(DEVICE, torch.float32 if name in exact else dtype) for name, leaf in x.items()}


def empty_cache(problem: Problem, x: dict[str, Tensor]) -> Cache:
    """Before the first token."""
    if problem.taps < 2:
        return Cache(x["state"].clone(), None, None)
    past = x["qkv"].new_zeros(problem.batch, problem.channels, problem.taps - 1)
    arrivals = torch.zeros(problem.batch, problem.heads, dtype=torch.int32, device=DEVICE)
    return Cache(x["state"].clone(), past, arrivals)


def step(problem: Problem, x: dict[str, Tensor], t: int, cache: Cache, **options: Any) -> Tensor:
    """Token t."""
    token = {name: x[name][:, t] for name in "gbw" if name in x}
    return decode_step(
        x["qkv"][:, t],
        **token,
        **cache.arguments,
        conv_weight=x.get("weight"),
        **problem.options(x),
        **options,
    )


def decoded(problem: Problem, x: dict[str, Tensor], cache: Cache, first: int = 0) -> Tensor:
    """o [B, T − first, HV, V] of the tokens from ``first`` on."""
    return torch.stack([step(problem, x, t, cache) for t in range(first, problem.time)], 1)


def strong_and_missing_decay(problem: Problem) -> dict[str, Tensor]:
    """Inputs whose channels decay by e^-200 a token and not at all, in turn."""
    x = problem.inputs()
    x["g"] = torch.where(torch.arange(problem.width) % 2 == 0, -200.0, 0.0).double().expand_as(x["g"]).contiguous()
    return x


def assert_matches(
    problem: Problem, bound: float = 1e-5, dtype: torch.dtype = torch.float32,
    state_dtype: torch.dtype = torch.float32, inputs: dict[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Outputs, state and past are those of the layer on the same rounded inputs, the problem's unless given."""
    given = on_device(problem.inputs() if inputs is None else inputs, dtype)
    given["state"] = given["state"].to(state_dtype)
    cache = empty_cache(problem, given)
    exact = {name: leaf.double() for name, leaf in given.items()}
    want, state = layer(problem, exact)
    got = decoded(problem, given, cache)
    assert got.dtype is dtype
    assert rms_error(got, want) < bound
    assert rms_error(cache.state, state) < bound
    if cache.past is not None:
        assert cache.arrivals is not None
        assert torch.equal(cache.past, conv_state_of(given["qkv"], problem.taps))
        assert not cache.arrivals.any()
