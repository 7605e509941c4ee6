"""The programs of benchmarks/, which is no package, as modules."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PATHS = [str(FOLDER), str(FOLDER / "contenders")]


@pytest.fixture
def program(monkeypatch):
    """`program(name)` imports one; none of them stays imported, since their names are short."""
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.setattr(sys, "path", PATHS + path)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(FOLDER):
            del sys.modules[name]
