"""The six reference posteriors as fixtures: `posterior` is each in turn, `posteriors` the table by name."""

import importlib.util
from pathlib import Path

import pytest


def load():
    """The table of models.py in this folder, which is no package."""
    spec = importlib.util.spec_from_file_location("reference_posteriors", Path(__file__).with_name("models.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.POSTERIORS


POSTERIORS = load()


@pytest.fixture(params=POSTERIORS)
def name(request):
    """The name of each posterior in turn."""
    return request.param


@pytest.fixture
def posterior(name):
    """Each posterior in turn."""
    return POSTERIORS[name]


@pytest.fixture(scope="session")
def posteriors():
    """All of them, by name."""
    return POSTERIORS
