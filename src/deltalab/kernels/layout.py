"""From tokens to chunks and back, [B, T, H, D] ↔ [M, C, D], M = chunks × heads: every product is one batched matmul.

Rows are ordered step by step: all first chunks, then all second chunks, …; within a step by sequence, longest first,
then by head. The chunks that one step of the serial loop works on are thus one contiguous slice, and a sequence that
has ended simply falls off its end. Three sequences of 3, 2 and 1 chunks:

    step   0           1       2
    rows   a0 b0 c0    a1 b1   a2          active = (3, 2, 1)

Sequences are padded with zeros to whole chunks; zero is a no-op of the recurrence (k = b = w ⊙ v = q = 0, g = 0).
"""

import itertools
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout:
    """How one call's tokens lie in chunks.

    Attributes:
        chunk: tokens in a chunk, C.
        heads: key heads, H.
        sizes: rows of each step, its active sequences times H.
        rows: M, their sum.
        even: whether all sequences have the same number of chunks.
    """

    def __init__(self, active: tuple[int, ...], heads: int, chunk: int) -> None:
        self.heads, self.chunk = heads, chunk
        self.sizes = tuple(n * heads for n in active)
        self.rows = sum(self.sizes)
        self.even = active[0] == active[-1]

    def to_chunks(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[B, T, H, D] → [M, C, D]."""
        raise NotImplementedError

    def to_tokens(self, x: Tensor) -> Tensor:
        """[M, C, D] → [B, T, H, D], fresh memory."""
        raise NotImplementedError

    def fold(self, x: Tensor) -> Tensor:
        """[B, T, HV, V] → [B, T, H, (HV / H) · V]: the value heads of a key head side by side."""
        return x if x.shape[2] == self.heads else x.flatten(2).unflatten(2, (self.heads, -1))

    def state_in(self, state: Tensor) -> Tensor:
        """[N, HV, K, V] → [N · H, K, (HV / H) · V] in the order of the first step."""
        return state.unflatten(1, (self.heads, -1)).transpose(2, 3).flatten(0, 1).flatten(2)

    def state_out(self, state: Tensor, group: int) -> Tensor:
        """[N · H, K, group · V] → [N, HV, K, V], the inverse of ``state_in``."""
        state = state.unflatten(0, (-1, self.heads)).unflatten(3, (group, -1)).transpose(2, 3)
        return state.flatten(1, 2)


class Even(Layout):
    """B sequences of one length: transposed views, no index."""

    def __init__(self, batch: int, time: int, heads: int, chunk: int) -> None:
        steps = -(-time // chunk)
        super().__init__((batch,) * steps, heads, chunk)
        self.time, self.pad = time, steps * chunk - time
        self.shape = (steps, batch, heads, chunk)

    def to_chunks(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        if self.pad:
            x = F.pad(x, (0, 0, 0, 0, 0, self.pad))
        x = x.unflatten(1, (self.shape[0], self.chunk)).permute(1, 0, 3, 2, 4)
        if out is None:
            return x.contiguous().view(self.rows, self.chunk, x.shape[-1])
        out.view(x.shape).copy_(x)
        return out

    def to_tokens(self, x: Tensor) -> Tensor:
        steps, batch, heads, chunk = self.shape
        out = x.new_empty(batch, steps, chunk, heads, x.shape[-1])
        out.copy_(x.view(*self.shape, x.shape[-1]).permute(1, 0, 3, 2, 4))
        return out.view(batch, steps * chunk, heads, x.shape[-1])[:, : self.time]


class Packed(Layout):
    """Sequences of any lengths on one time axis: gathered row by row, pads overwritten with zeros."""

    def __init__(self, bounds: tuple[int, ...], heads: int, chunk: int, device: torch.device) -> None:
        lengths = [stop - start for start, stop in itertools.pairwise(bounds)]
        order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
        steps = range(0, max(lengths), chunk)
        super().__init__(tuple(sum(length > start for length in lengths) for start in steps), heads, chunk)
        spans = [
            (bounds[n] + start, min(chunk, lengths[n] - start)) for start in steps for n in order if lengths[n] > start
        ]
        begin, length = torch.tensor(spans, device=device).unsqueeze(-1).unbind(1)
        offset, head = torch.arange(chunk, device=device), torch.arange(heads, device=device).unsqueeze(-1)
        real = (offset < length).unsqueeze(1).expand(-1, heads, -1).flatten()
        token = ((begin + offset).unsqueeze(1) * heads + head).flatten()
        self.token_of_row = torch.where(real, token, 0)
        self.row_of_token = torch.empty(bounds[-1] * heads, dtype=torch.long, device=device)
        self.row_of_token[token[real]] = real.nonzero().squeeze(-1)
        self.pads = (~real).nonzero().squeeze(-1)
        self.order = torch.tensor(order, device=device)
        self.rank = self.order.argsort()

    def to_chunks(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).index_select(0, self.token_of_row).index_fill_(0, self.pads, 0)
        rows = rows.view(self.rows, self.chunk, -1)
        return rows if out is None else out.copy_(rows)

    def to_tokens(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).index_select(0, self.row_of_token)
        return rows.view(1, -1, self.heads, x.shape[-1])

    def state_in(self, state: Tensor) -> Tensor:
        return super().state_in(state.index_select(0, self.order))

    def state_out(self, state: Tensor, group: int) -> Tensor:
        return super().state_out(state, group).index_select(0, self.rank)


def lay_out(q: Tensor, bounds: tuple[int, ...] | None, chunk: int) -> Layout:
    """The layout of one call; no chunk is longer than the next power of two above the longest sequence."""
    batch, time, heads, _ = q.shape
    longest = time if bounds is None else max(stop - start for start, stop in itertools.pairwise(bounds))
    chunk = min(chunk, 1 << (longest - 1).bit_length())
    return Even(batch, time, heads, chunk) if bounds is None else _packed(bounds, heads, chunk, q.device)


@lru_cache(maxsize=8)
def _packed(bounds: tuple[int, ...], heads: int, chunk: int, device: torch.device) -> Packed:
    """Every layer of a model asks for the same packing, and building it costs more than using it."""
    return Packed(bounds, heads, chunk, device)
