"""What is begun while a graph is traced: with the right settings, and in nobody's way."""

import logging
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch.fx import Graph

from torchebm.core import HarmonicModel, headstart
from torchebm.core.inductor import inductor_pass
from torchebm.samplers import LangevinDynamics

TRUSTED = {"cpp.vec_isa_ok": True}

IMPORTS = """
import sys, threading, torch
from torchebm.core import headstart

torch.compile(lambda: None)
imported, done = set(), []

class Here(threading.Thread):
    def start(self):
        before = set(sys.modules)
        super().start()
        self.join()
        imported.update(set(sys.modules) - before)

def counted(work):
    return lambda: (work(), done.append(work))

threading.Thread = Here
headstart._try_instructions = counted(headstart._try_instructions)
headstart._compile_headers = counted(headstart._compile_headers)
headstart.begin({"cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": True})
print(len(done), *sorted(imported))
"""

own_settings = pytest.mark.skipif(not headstart._OWN_SETTINGS, reason="this PyTorch has one set of settings")


@pytest.fixture
def seen(monkeypatch):
    """The work that was begun, as if nothing had been in this process; its settings instead of what it does."""
    seen = {}

    def note(name):
        config = torch._inductor.config
        seen[name] = {"cxx": config.cpp.cxx, "trusted": config.cpp.vec_isa_ok, "thread": threading.current_thread()}

    monkeypatch.setattr(headstart, "_begun", {})
    monkeypatch.setattr(headstart, "_try_instructions", lambda: note("instructions"))
    monkeypatch.setattr(headstart, "_compile_headers", lambda: note("headers"))
    return seen


def join():
    for thread in headstart._begun.values():
        thread.join()


@own_settings
def test_threads_import_nothing(tmp_path):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert done.stdout.split() == ["2"]


@own_settings
def test_settings_are_those_of_the_compilation(seen):
    with torch._inductor.config.patch({"cpp.cxx": ("of", "the", "process")}):
        headstart.begin(TRUSTED)
        join()
    assert seen["instructions"]["cxx"] == seen["headers"]["cxx"] == ("of", "the", "process")
    assert seen["instructions"]["trusted"]
    assert seen["headers"]["trusted"]
    headstart._begun.clear()
    headstart.begin({**TRUSTED, "cpp.cxx": ("of", "an", "option")})
    join()
    assert seen["instructions"]["cxx"] == ("of", "an", "option")
    assert torch._inductor.config.cpp.cxx != ("of", "an", "option")


@own_settings
@pytest.mark.parametrize(("settings", "expected"), [
    ({}, set()), ({"cpp.vec_isa_ok": False}, set()), (TRUSTED, {"instructions", "headers"}),
    ({**TRUSTED, "cpp_cache_precompile_headers": False}, {"instructions"}),
])  # fmt: skip
def test_what_is_begun(seen, settings, expected):
    headstart.begin(settings)
    join()
    assert set(seen) == expected


@own_settings
def test_begun_once_and_elsewhere(seen):
    headstart.begin(TRUSTED)
    join()
    first = dict(seen)
    headstart.begin(TRUSTED)
    join()
    assert seen == first
    assert threading.current_thread() not in [each["thread"] for each in seen.values()]


@own_settings
def test_a_compilation_begins_it(seen):
    LangevinDynamics(HarmonicModel()).compile(block=2).sample(torch.zeros(4, 2), n_steps=4)
    join()
    assert set(seen) == ({"instructions", "headers"} if sys.platform == "linux" else set())


@own_settings
def test_graphs_are_rewritten_once_instructions_are_known(seen, monkeypatch):
    known, rewritten = threading.Event(), threading.Event()
    monkeypatch.setattr(headstart, "_try_instructions", known.wait)
    monkeypatch.setattr("torchebm.core.inductor.take_apart", lambda graph: rewritten.set() or True)
    headstart.begin(TRUSTED)
    thread = threading.Thread(target=inductor_pass(), args=(Graph(),))
    thread.start()
    assert not rewritten.wait(timeout=0.2)
    known.set()
    assert rewritten.wait(timeout=60)
    thread.join()


@own_settings
def test_what_fails_keeps_nobody_waiting(seen, monkeypatch, caplog):
    def fail():
        raise OSError("no compiler")

    monkeypatch.setattr(headstart, "_try_instructions", fail)
    with caplog.at_level(logging.DEBUG, "torchebm"):
        headstart.begin(TRUSTED)
        headstart.wait_for_instructions()
        join()
    assert "no compiler" in caplog.text
    assert "headers" in seen


def test_without_threads_there_is_nothing_to_wait_for(seen, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    headstart.begin(TRUSTED)
    headstart.wait_for_instructions()
    assert not seen


def test_nothing_is_begun_where_settings_are_everybodys(seen, monkeypatch):
    monkeypatch.setattr(headstart, "_OWN_SETTINGS", False)
    headstart.begin(TRUSTED)
    assert not headstart._begun
