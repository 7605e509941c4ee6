"""What Inductor is given a start on, while a graph is traced."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from torchebm.core import inductor

IMPORTS = """
import sys, threading, torch
from torchebm.core import inductor

torch.compile(lambda: None)
imported = set()

class Here(threading.Thread):
    def start(self):
        before = set(sys.modules)
        self.run()
        imported.update(set(sys.modules) - before)

threading.Thread = Here
assert inductor.headers().is_set()
print(*sorted(imported))
"""


@pytest.fixture
def forgotten():
    """As if nothing had been compiled in this process."""

    def forget():
        inductor.instructions.cache_clear()
        inductor.headers.cache_clear()

    forget()
    yield
    forget()


def test_the_threads_import_nothing(tmp_path):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert done.stdout.strip() == ""
    assert list(tmp_path.iterdir())  # they did try


@pytest.mark.parametrize("differentiated", [False, True])
def test_kernels_after_a_start_ahead(forgotten, monkeypatch, differentiated):
    monkeypatch.setattr(inductor, "_OWN_SETTINGS", True)
    ours = torch.compile(lambda x: x + 1, options=inductor.cpu_settings(differentiated, True))
    assert torch.equal(ours(torch.ones(3)), torch.full((3,), 2.0))
    assert inductor.instructions().is_set()
    assert inductor.headers.cache_info().currsize == differentiated


@pytest.mark.parametrize("fault", [OSError("no compiler"), AttributeError("another version")])
def test_what_fails_keeps_nobody_waiting(forgotten, monkeypatch, fault):
    def fail():
        raise fault

    monkeypatch.setattr("torch._inductor.cpu_vec_isa.pick_vec_isa", fail)
    assert inductor.instructions().wait(timeout=60)
    assert inductor.headers().wait(timeout=60)


def test_no_thread_where_settings_are_everybodys(forgotten, monkeypatch):
    monkeypatch.setattr(inductor, "_OWN_SETTINGS", False)
    monkeypatch.setattr(threading, "Thread", None)
    assert inductor.instructions().is_set()
    assert inductor.headers().is_set()
