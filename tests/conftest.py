"""What holds for every test: one thread of torch's a process, as several processes test at once."""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # which torch reads when it is imported, by subprocesses too
    os.environ.setdefault(name, "1")
