"""The reference posteriors' data for those who are not this library, and requests about them.

Densities are written with the same algebra by everyone: the linear regressions by the sums that suffice, the mixture by
one matrix product. Parameters are in the order of `tests/posteriors/models.py`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from protocol import answer

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "posteriors"
PARAMETERS = {
    "eight_schools": {"t": 8, "mu": 0, "tau": 0},
    "kidscore_momiq": {"beta": 2, "sigma": 0},
    "arK": {"alpha_and_beta": 6, "sigma": 0},
    "nes": {"beta": 9, "sigma": 0},
    "gp_regr": {"rho": 0, "alpha": 0, "sigma": 0},
    "low_dim_gauss_mix": {"mu": 2, "sigma": 2, "theta": 0},
}
"""Names and lengths, 0 for a number, in the order of the vector."""

Run = tuple[float, float, float, np.ndarray, int]
"""What a run comes to: see `serve`."""


def load(name: str) -> dict[str, Any]:
    """What a density is made of."""
    data = json.loads((FOLDER / f"{name}.json").read_text())["data"]
    if name == "eight_schools":
        return {"y": np.array(data["y"], float), "sigma": np.array(data["sigma"], float)}
    if name == "kidscore_momiq":
        design = np.stack([np.ones(data["N"]), data["mom_iq"]], 1)
        return regression(design, data["kid_score"], sigma_scale=2.5)
    if name == "arK":
        y, k = np.array(data["y"], float), data["K"]
        design = np.stack([np.ones(len(y) - k), *(y[k - i : len(y) - i] for i in range(1, k + 1))], 1)
        return regression(design, y[k:], coefficient_scale=10.0, sigma_scale=2.5)
    if name == "nes":
        age = np.array(data["age_discrete"])
        columns = [np.ones(data["N"]), data["real_ideo"], data["race_adj"], age == 2, age == 3, age == 4]
        columns += [data["educ1"], data["gender"], data["income"]]
        return regression(np.stack([np.asarray(c, float) for c in columns], 1), data["partyid7"])
    if name == "gp_regr":
        x = np.array(data["x"], float)
        return {"squares": (x[:, None] - x) ** 2, "y": np.array(data["y"], float)}
    y = np.array(data["y"], float)
    powers = np.stack([np.ones_like(y), y, y**2])
    return {"powers": powers, "sums": powers.sum(1)}


def regression(design: np.ndarray, y: Any, coefficient_scale: float | None = None,
               sigma_scale: float | None = None) -> dict[str, Any]:  # fmt: skip
    """A linear regression by the sums that suffice; scales of the priors, flat where there is none."""
    y = np.asarray(y, float)
    estimate = np.linalg.lstsq(design, y, rcond=None)[0]
    rest = float(((y - design @ estimate) ** 2).sum())
    return {"estimate": estimate, "gram": design.T @ design, "n": len(y), "rest": rest,
            "coefficient_scale": coefficient_scale, "sigma_scale": sigma_scale}  # fmt: skip


def named(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A vector as parameters by name."""
    parts, at = {}, 0
    for parameter, length in PARAMETERS[name].items():
        parts[parameter] = x[..., at : at + length] if length else x[..., at]
        at += max(1, length)
    return parts


def stacked(name: str, draws: dict[str, Any]) -> np.ndarray:
    """`[chain, draw, dim]` of draws by name, each `[chain, draw, ...]`."""
    parts = [np.asarray(draws[parameter], np.float64) for parameter in PARAMETERS[name]]
    return np.concatenate([part if part.ndim == 3 else part[..., None] for part in parts], 2)


def serve(density: Callable[[str, np.ndarray], np.ndarray], run: Callable[..., Run]) -> None:
    """Answers two requests.

    Args:
        density: `(posterior, x [n, dim]) -> [n]`, the logarithm on the constrained space.
        run: `(posterior, n_warmup, n_draws, seed, **configuration) -> (seconds of all, of the warm-up, of the draws,
            the draws, their gradients)`; what is compiled is part of all, and kept for the next run of the same
            configuration.
    """

    def handle(request: dict) -> dict:
        if "x" in request:
            return {"log_density": np.asarray(density(request["posterior"], np.array(request["x"]))).tolist()}
        out = request.pop("out")
        all_s, warmup_s, draws_s, draws, gradients = run(**request)
        np.save(out, np.asarray(draws, np.float64))
        return {"all_s": all_s, "warmup_s": warmup_s, "draws_s": draws_s, "gradients": gradients}

    answer(handle)
