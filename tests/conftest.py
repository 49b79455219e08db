"""One thread in every test process: on small tensors threads only get in the way."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402 - the variable must be set before torch starts its threads

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# a shell's background jobs ignore Ctrl-C, and the tests of interruption must not
signal.signal(signal.SIGINT, signal.default_int_handler)
