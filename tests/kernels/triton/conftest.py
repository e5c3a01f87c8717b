"""Where the kernels run: on a GPU if there is one, else in Triton's interpreter, which is chosen before the import."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
