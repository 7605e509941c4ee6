"""Prints how the samplers do, with their defaults, on the reference posteriors: `python tests/posteriors/table.py`."""

import argparse
import sys
import time
from pathlib import Path

import torch

from torchebm.diagnostics import summary
from torchebm.samplers import ChEESHamiltonianMonteCarlo, NoUTurnSampler

SAMPLERS = (NoUTurnSampler, ChEESHamiltonianMonteCarlo)


def figures(cls, posterior, seed=0, n_chains=64, n_warmup=1000, n_steps=500):
    """What a sampler makes of a posterior: errors against the reference, convergence and cost."""
    generator, began = torch.Generator().manual_seed(seed), time.perf_counter()
    draws, noted = cls(posterior.model).sample(
        posterior.initial(n_chains, generator), n_steps=n_steps, n_warmup=n_warmup, generator=generator,
        return_trajectory=True, return_diagnostics=True,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    reported = posterior.report(draws)
    found, flat = summary(reported, noted, posterior.names), reported.flatten(0, 1)
    ess = min(found.ess_bulk.values())
    return {
        "mean error / sd": float(((flat.mean(0) - posterior.mean) / posterior.sd).abs().max()),
        "sd ratio, least": float((flat.std(0) / posterior.sd).min()),
        "sd ratio, most": float((flat.std(0) / posterior.sd).max()),
        "R-hat": max(found.r_hat.values()),
        "bulk ESS": ess,
        "gradients / ESS": float(noted["n_steps"].sum()) / ess,
        "divergences": found.n_divergences,
        "seconds": seconds,
    }


def main():
    sys.path.insert(0, str(Path(__file__).parent))
    from models import POSTERIORS

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=0)
    seed = options.parse_args().seed
    header = None
    for cls in SAMPLERS:
        for name, posterior in POSTERIORS.items():
            row = figures(cls, posterior, seed)
            if header is None:
                header = ["posterior", "sampler", *row]
                print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
            cells = [f"{v:.4f}" if k == "R-hat" else f"{v:.0f}" if v >= 100 else f"{v:.3g}" for k, v in row.items()]
            print("| " + " | ".join([name, cls.__name__, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
