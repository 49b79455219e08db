"""One thread in every test process: on small tensors threads only get in the way."""

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402 - the variable must be set before torch starts its threads

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# a shell's background jobs ignore Ctrl-C, and the tests of interruption must not
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_compiles_by_accident(request, monkeypatch):
    """Compiling takes seconds: the tests of it alone may."""
    if "test_compiled" not in request.node.nodeid:
        from probgen import compiled

        def refuse(*_: object) -> None:
            pytest.fail("a test outside of tests/test_compiled.py compiles a training step")

        monkeypatch.setattr(compiled, "compile_graph", refuse)
