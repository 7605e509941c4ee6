"""Samplers with defaults find the reference posteriors; at full size, in minutes, by `TORCHEBM_FULL_SIZE=1 pytest`."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from torchebm.core import BaseModel
from torchebm.samplers import ChEESHamiltonianMonteCarlo, NoUTurnSampler

pytest.importorskip("arviz")
F64 = torch.float64
FULL = os.environ.get("TORCHEBM_FULL_SIZE") == "1"


def load():
    """table.py in this folder, which is no package."""
    spec = importlib.util.spec_from_file_location("reference_table", Path(__file__).with_name("table.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cls", [NoUTurnSampler, ChEESHamiltonianMonteCarlo], ids=lambda cls: cls.__name__)
def test_defaults_find_every_parameter(cls, name, posterior):
    """Monte Carlo errors are below 0.03 sd at full size, so that what fails is the sampler."""
    quick = {"eight_schools", "gp_regr"} | ({"kidscore_momiq", "arK"} if cls is ChEESHamiltonianMonteCarlo else set())
    if not FULL and name not in quick:
        pytest.skip("takes ten seconds or more: only with TORCHEBM_FULL_SIZE=1")
    size = {} if FULL else {"n_warmup": 250, "n_steps": 100}
    found = load().figures(cls, posterior, seed=0, **size)
    assert found["mean error / sd"] < 0.1
    assert 0.9 < found["sd ratio, least"] <= found["sd ratio, most"] < 1.1
    assert found["R-hat"] < (1.01 if FULL else 1.03)


class Funnel(BaseModel):
    """Neal's: v ~ Normal(0, 3), and nine x ~ Normal(0, exp(v / 2))."""

    event_shape = torch.Size([10])

    def forward(self, x):
        v = x[:, :1]
        return (v.square() / 18).sum(1) + (0.5 * x[:, 1:].square() * torch.exp(-v) + 0.5 * v).sum(1)


def test_the_funnel_is_reported(generator):
    from torchebm.diagnostics import summary

    sampler = NoUTurnSampler(Funnel(), dtype=F64)
    draws, noted = sampler.sample(n_samples=8, n_warmup=100, n_steps=100, generator=generator,
                                  return_trajectory=True, return_diagnostics=True)  # fmt: skip
    found = summary(draws, noted)
    assert found.n_divergences > 0
    assert any("chains diverged: raise target_acceptance or reparameterise" in line for line in found.advice)
