"""Softmax attention with rotary positions, over the whole past or a sliding window (SWA)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.kernels.packing import tokens_before
from deltalab.mixers.base import Cache, TokenMixer
from deltalab.mixers.softmax import attend
from deltalab.spec.model import ModelSpec


class Attention(TokenMixer):
    """Causal multi-head attention; ``window`` tokens are seen, the present one included (None: all of the past)."""

    def __init__(self, model: ModelSpec, window: int | None) -> None:
        super().__init__()
        self.heads, self.window, self.rope_base = model.heads, window, model.rope_base
        self.qkv = nn.Linear(model.d_model, 3 * model.d_model, bias=False)
        self.out = nn.Linear(model.d_model, model.d_model, bias=False)

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        length = x_BTD.shape[1]
        qkv = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, T, d]
        position = torch.arange(length, device=q.device) if cu_seqlens is None else tokens_before(cu_seqlens, length)
        q, k = rotate(q, position, self.rope_base), rotate(k, position, self.rope_base)
        if cache is not None:
            fill(cache, k.detach(), v.detach(), cu_seqlens)
        o_BHTd = attend(q, k, v, self.window, cu_seqlens)
        return self.out(o_BHTd.transpose(1, 2).flatten(-2))

    def new_cache(self, batch: int, length: int) -> Cache:
        """Keys and values, ``k`` and ``v`` [N, H, slots, d], and how many tokens each sequence has ``seen`` [N].

        The token at position p lies in slot p mod ``slots``: the window, or ``length`` where that is less or all of
        the past is seen.
        """
        weight = self.qkv.weight
        slots = length if self.window is None else min(self.window, length)
        shape = (batch, self.heads, slots, self.out.in_features // self.heads)
        seen = weight.new_zeros(batch, dtype=torch.int64)
        return {"k": weight.new_zeros(shape), "v": weight.new_zeros(shape), "seen": seen}

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        q, k, v = self.qkv(x_BD).unflatten(-1, (3, self.heads, -1)).unbind(1)  # each [N, H, d]
        position, slots = cache["seen"][:, None], cache["k"].shape[2]
        q, k = rotate(q, position, self.rope_base), rotate(k, position, self.rope_base)
        row, slot = torch.arange(len(q), device=q.device), cache["seen"] % slots
        for name, x in (("k", k), ("v", v)):
            cache[name][row, :, slot] = x.to(cache[name].dtype)
        cache["seen"] += 1
        held = torch.arange(slots, device=q.device) < cache["seen"][:, None]
        o = F.scaled_dot_product_attention(q.unsqueeze(2), cache["k"], cache["v"], attn_mask=held[:, None, None])
        return self.out(o.flatten(1))


def fill(cache: Cache, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> None:
    """Put the newest keys and values of each sequence, [B, H, T, d], where ``step`` would have put them."""
    batch, _, length, _ = k.shape
    slots = cache["k"].shape[2]
    row = torch.arange(batch if cu_seqlens is None else 1, device=k.device)[:, None]
    start = torch.zeros_like(row) if cu_seqlens is None else cu_seqlens[:-1, None]
    cache["seen"].copy_(cu_seqlens.diff() if cu_seqlens is not None else torch.full_like(cache["seen"], length))
    slot, last = torch.arange(min(slots, length), device=k.device), cache["seen"][:, None] - 1
    position = last - (last - slot) % slots  # the newest token of a slot; below 0 where it has none, and none is read
    place = start + position.clamp(min=0)
    for name, x in (("k", k), ("v", v)):
        cache[name][:, :, : len(slot)] = x[row, :, place].transpose(1, 2)


def rotate(x: Tensor, position: Tensor, base: float) -> Tensor:
    """Rotary positions (arXiv 2104.09864): pair (i, i + d/2) of x [..., d] turns by position · base^(−2i/d).

    Args:
        x: [..., d].
        position: tokens of the same sequence before this one; broadcasts against [...].
        base: of the frequencies.
    """
    half = x.shape[-1] // 2
    cos, sin = rotary_table(position, half, base, x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@torch.library.custom_op("deltalab::rotary_table", mutates_args=())
def rotary_table(position: Tensor, half: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of ``rotate``'s angles, each [..., half], computed in fp64.

    An operator of its own, so that a compiler does not compute them anew for every element that it turns.
    """
    frequency = base ** (-torch.arange(half, device=position.device, dtype=torch.float64) / half)
    angle = position[..., None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


@rotary_table.register_fake
def _(position: Tensor, half: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    table = position.new_empty((*position.shape, half), dtype=dtype)
    return table, torch.empty_like(table)
