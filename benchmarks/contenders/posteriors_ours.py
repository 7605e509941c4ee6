"""This library on the reference posteriors, with the models of its own tests."""

import functools
import importlib
import sys
import time
from typing import Any

import numpy as np
import torch
from reference import FOLDER, Run, serve

from torchebm.samplers import ChEESHamiltonianMonteCarlo, NoUTurnSampler

SAMPLERS = {"NUTS": NoUTurnSampler, "ChEES": ChEESHamiltonianMonteCarlo}
sys.path.append(str(FOLDER))
POSTERIORS = importlib.import_module("models").POSTERIORS  # by a name that the compiler can import as well


def density(posterior: str, x: np.ndarray) -> np.ndarray:
    return -POSTERIORS[posterior].model(torch.from_numpy(x)).numpy()


@functools.cache
def sampler(posterior: str, kind: str, chains: int) -> Any:
    """One for each configuration, with what was compiled for it."""
    return SAMPLERS[kind](POSTERIORS[posterior].model).compile()


def run(posterior: str, n_warmup: int, n_draws: int, seed: int, sampler_kind: str, chains: int) -> Run:
    generator = torch.Generator().manual_seed(seed)
    kernel = sampler(posterior, sampler_kind, chains)
    began = time.perf_counter()
    x = POSTERIORS[posterior].initial(chains, generator)
    state = kernel.warm_up(x, n_warmup, generator=generator)
    warm = time.perf_counter()
    draws, noted = kernel.sample(state=state, n_steps=n_draws, generator=generator, return_trajectory=True,
                                 return_diagnostics=True)  # fmt: skip
    done = time.perf_counter()
    return done - began, warm - began, done - warm, draws.numpy(), int(noted["n_steps"].sum())


serve(density, run)
