"""The gated delta rule in Triton: one stage a file, one function for every variant of the lattice.

activate.py         per 64 tokens and key head: norm and gates of raw inputs, and their gradients
prologue.py         per chunk and key head: factors, causal scores, T = (I + A)^-1                   (K1)
forward.py          per sequence and value head, chunk after chunk: state and output                 (K2)
backward.py         the same in reverse: cotangents of R and of the state                            (B1)
value_gradients.py  per chunk and key head: dv, dw and the cotangents of its pairs of tokens         (B2)
key_gradients.py    then dq, dk, dg, db                                                              (B2)
inputs.py, parts.py what the stages share; table.py where sequences lie in chunks
passes.py           the stages one after another; ops.py the torch.library operators; api.py the function on top
step.py             one token of a layer, from its projections to o; decode.py its operator and the function on top
"""

import os

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns that its default is about to change
