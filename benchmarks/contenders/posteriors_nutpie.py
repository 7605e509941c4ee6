"""nutpie on the reference posteriors, by PyMC's models and Numba, its fastest way."""

import functools
import time
import warnings
from typing import Any

import numpy as np
import nutpie
import pymc as pm
import pytensor.tensor as pt
from reference import PARAMETERS, Run, load, named, serve, stacked

warnings.filterwarnings("ignore", "More chains", UserWarning)  # than draws, in the run that times the warm-up


def eight_schools(data: dict[str, Any]) -> None:
    t = pm.Normal("t", 0, 1, shape=8)
    mu = pm.Normal("mu", 0, 5)
    tau = pm.HalfCauchy("tau", 5)
    pm.Normal("y", mu + tau * t, data["sigma"], observed=data["y"])


def linear_regression(coefficients: str, data: dict[str, Any]) -> None:
    k, scale, sigma_scale = len(data["estimate"]), data["coefficient_scale"], data["sigma_scale"]
    beta = pm.Flat(coefficients, shape=k) if scale is None else pm.Normal(coefficients, 0, scale, shape=k)
    sigma = pm.HalfFlat("sigma") if sigma_scale is None else pm.HalfCauchy("sigma", sigma_scale)
    away = beta - data["estimate"]
    squares = pt.dot(away, pt.dot(data["gram"], away)) + data["rest"]
    pm.Potential("likelihood", -0.5 * squares / sigma**2 - data["n"] * pt.log(sigma))


def gp_regr(data: dict[str, Any]) -> None:
    rho = pm.Gamma("rho", alpha=25, beta=4)
    alpha = pm.HalfNormal("alpha", 2)
    sigma = pm.HalfNormal("sigma", 1)
    n = len(data["y"])
    covariance = alpha**2 * pt.exp(-0.5 * data["squares"] / rho**2) + sigma * np.eye(n)
    pm.MvNormal("y", mu=np.zeros(n), cov=covariance, observed=data["y"])


def low_dim_gauss_mix(data: dict[str, Any]) -> None:
    mu = pm.Normal("mu", 0, 2, shape=2, transform=pm.distributions.transforms.ordered, initval=np.array([-1.0, 1.0]))
    sigma = pm.HalfNormal("sigma", 2, shape=2)
    theta = pm.Beta("theta", 5, 5)
    weight = pt.stack([pt.log(theta), pt.log1p(-theta)])
    precision = sigma**-2
    curves = pt.stack([weight - pt.log(sigma) - 0.5 * mu**2 * precision, mu * precision, -0.5 * precision])
    difference = pt.dot(curves[:, 0] - curves[:, 1], data["powers"])
    pm.Potential("likelihood", pt.softplus(difference).sum() + pt.dot(curves[:, 1], data["sums"]))


MODELS = {
    "eight_schools": eight_schools,
    "kidscore_momiq": functools.partial(linear_regression, "beta"),
    "arK": functools.partial(linear_regression, "alpha_and_beta"),
    "nes": functools.partial(linear_regression, "beta"),
    "gp_regr": gp_regr,
    "low_dim_gauss_mix": low_dim_gauss_mix,
}


@functools.cache
def model(posterior: str) -> pm.Model:
    with pm.Model() as made:
        MODELS[posterior](load(posterior))
    return made


@functools.cache
def compiled(posterior: str) -> Any:
    return nutpie.compile_pymc_model(model(posterior), backend="numba")


def density(posterior: str, x: np.ndarray) -> np.ndarray:
    made = model(posterior)
    one = made.compile_logp(jacobian=False)
    found = []
    for row in x:
        point = {}
        for name, value in named(posterior, row).items():
            variable = made[name]
            transform, inner = made.rvs_to_transforms[variable], made.rvs_to_values[variable]
            point[inner.name] = (
                value if transform is None else transform.forward(pt.as_tensor(value), *variable.owner.inputs).eval()
            )
        found.append(float(one(point)))
    return np.array(found)


def run(posterior: str, n_warmup: int, n_draws: int, seed: int,
        chains: int) -> Run:  # fmt: skip
    options: dict[str, Any] = {"tune": n_warmup, "chains": chains, "seed": seed, "save_warmup": False,
                               "progress_bar": False, "blocking": False}  # fmt: skip
    began = time.perf_counter()
    made = compiled(posterior)
    compiling = time.perf_counter() - began

    def timed(draws: int) -> tuple[float, Any]:
        """Until the draws are there; making ArviZ's object of them is not counted."""
        began = time.perf_counter()
        sampler = nutpie.sample(made, draws=draws, **options)
        sampler._sampler.wait(None)
        return time.perf_counter() - began, sampler.wait()

    seconds, result = timed(n_draws)
    warmup_s = min(seconds, timed(1)[0])  # with the same seed, hence the same warm-up
    draws = stacked(posterior, {name: result.posterior[name].values for name in PARAMETERS[posterior]})
    gradients = int(result.sample_stats["n_steps"].sum())
    return compiling + seconds, warmup_s, seconds - warmup_s, draws, gradients


serve(density, run)
