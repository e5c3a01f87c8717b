"""What holds for every test: one thread of torch's a process, its subprocesses' too, for several processes test at once."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported, which the test modules do
    os.environ.setdefault(name, "1")
