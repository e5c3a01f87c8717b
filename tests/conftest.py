"""What holds for every test, before anything is imported that reads it.

One thread of torch's a process, as several processes test at once. Without a GPU, Triton's kernels run in its
interpreter, which must be chosen before the first import of Triton, whoever does it.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # which torch reads when it is imported, by subprocesses too
    os.environ.setdefault(name, "1")

import torch  # noqa: E402, it reads the threads

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
