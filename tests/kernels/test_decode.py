"""The decode step in plain torch against the whole layer, and the past that prompts leave to it."""

from itertools import pairwise

import pytest
import torch

from deltalab.kernels.decode import conv_state_of, convolve, decode_step
from deltalab.kernels.norm import l2_norm
from deltalab.kernels.reference import gated_delta_rule
from deltalab.mixers.short_conv import ShortConvolution


def test_steps_are_the_layer() -> None:
    torch.manual_seed(0)
    n, time, heads, value_heads, width, values = 2, 7, 2, 4, 6, 5
    qkv = torch.randn(n, time, 2 * heads * width + value_heads * values, dtype=torch.float64)
    convolution = ShortConvolution(qkv.shape[-1], 4).double()
    torch.nn.init.normal_(convolution.weight)
    weight = convolution.weight.detach()
    g, b = -torch.rand(n, time, heads, dtype=torch.float64), torch.rand(n, time, heads, width, dtype=torch.float64)
    sizes = [heads * width, heads * width, value_heads * values]
    q, k, v = (part.detach() for part in convolution(qkv, sizes))
    q, k = (l2_norm(x.unflatten(-1, (heads, width))) for x in (q, k))
    want, final = gated_delta_rule(q, k, v.unflatten(-1, (value_heads, values)), g, b, output_final_state=True)
    state, past = torch.zeros(n, value_heads, width, values, dtype=torch.float64), qkv.new_zeros(n, qkv.shape[-1], 3)
    for t in range(time):
        o = decode_step(
            qkv[:, t], state, heads=heads, g=g[:, t], b=b[:, t], conv_weight=weight, conv_state=past
        )  # fmt: skip
        torch.testing.assert_close(o, want[:, t], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-10, atol=1e-12)
    assert torch.equal(past, conv_state_of(qkv, 4))


def test_a_prompt_shorter_than_the_convolution_leaves_zeros_before_it() -> None:
    qkv = torch.arange(1.0, 7.0).view(1, 2, 3)
    assert conv_state_of(qkv, 4).tolist() == [[[0, 1, 4], [0, 2, 5], [0, 3, 6]]]
    assert conv_state_of(qkv, 1).shape == (1, 3, 0)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_packed_prompts_leave_what_each_alone_leaves(width: int) -> None:
    x, cuts = torch.randn(1, 12, 3), [0, 1, 3, 12]
    alone = [conv_state_of(x[:, a:b], width) for a, b in pairwise(cuts)]
    assert torch.equal(conv_state_of(x, width, torch.tensor(cuts)), torch.cat(alone))


def test_the_past_moves_on_by_a_token() -> None:
    past = torch.tensor([[[1.0, 2.0]]])
    assert convolve(torch.tensor([[3.0]]), torch.tensor([[100.0, 10.0, 1.0]]), past).tolist() == [[123.0]]
    assert past.tolist() == [[[2.0, 3.0]]]
