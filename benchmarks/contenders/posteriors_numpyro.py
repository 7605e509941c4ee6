"""NumPyro's NUTS on the reference posteriors: `python posteriors_numpyro.py 32|64 [devices]`."""

# ruff: noqa: E402  (precision and devices are set before JAX is imported)

import functools
import sys
import time
import warnings
from typing import Any

import numpyro

BITS = int(sys.argv[1])
numpyro.enable_x64(BITS == 64)
if len(sys.argv) > 2:
    numpyro.set_host_device_count(int(sys.argv[2]))

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import factor, sample
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from reference import PARAMETERS, Run, load, named, serve, stacked

warnings.filterwarnings("ignore", category=FutureWarning)


def eight_schools(data: dict[str, Any]) -> None:
    t = sample("t", dist.Normal(0, 1).expand([8]).to_event(1))
    mu = sample("mu", dist.Normal(0, 5))
    tau = sample("tau", dist.HalfCauchy(5))
    sample("y", dist.Normal(mu + tau * t, data["sigma"]).to_event(1), obs=data["y"])


def linear_regression(coefficients: str, data: dict[str, Any]) -> None:
    k, scale, sigma_scale = len(data["estimate"]), data["coefficient_scale"], data["sigma_scale"]
    flat = dist.ImproperUniform(constraints.real_vector, (), (k,))
    beta = sample(coefficients, flat if scale is None else dist.Normal(0, scale).expand([k]).to_event(1))
    positive = dist.ImproperUniform(constraints.positive, (), ())
    sigma = sample("sigma", positive if sigma_scale is None else dist.HalfCauchy(sigma_scale))
    away = beta - data["estimate"]
    squares = away @ (data["gram"] @ away) + data["rest"]
    factor("likelihood", -0.5 * squares / sigma**2 - data["n"] * jnp.log(sigma))


def gp_regr(data: dict[str, Any]) -> None:
    rho = sample("rho", dist.Gamma(25, 4))
    alpha = sample("alpha", dist.HalfNormal(2))
    sigma = sample("sigma", dist.HalfNormal(1))
    n = len(data["y"])
    covariance = alpha**2 * jnp.exp(-0.5 * data["squares"] / rho**2) + sigma * jnp.eye(n)
    sample("y", dist.MultivariateNormal(jnp.zeros(n), covariance), obs=data["y"])


def low_dim_gauss_mix(data: dict[str, Any]) -> None:
    mu = sample("mu", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
    factor("order", dist.Normal(0, 2).log_prob(mu).sum())
    sigma = sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = sample("theta", dist.Beta(5, 5))
    weight = jnp.stack([jnp.log(theta), jnp.log1p(-theta)])
    precision = sigma**-2
    curves = jnp.stack([weight - jnp.log(sigma) - 0.5 * mu**2 * precision, mu * precision, -0.5 * precision])
    difference = (curves[:, 0] - curves[:, 1]) @ data["powers"]
    factor("likelihood", jax.nn.softplus(difference).sum() + curves[:, 1] @ data["sums"])


MODELS = {
    "eight_schools": eight_schools,
    "kidscore_momiq": functools.partial(linear_regression, "beta"),
    "arK": functools.partial(linear_regression, "alpha_and_beta"),
    "nes": functools.partial(linear_regression, "beta"),
    "gp_regr": gp_regr,
    "low_dim_gauss_mix": low_dim_gauss_mix,
}


@functools.cache
def model(posterior: str) -> Any:
    data = {
        key: jnp.asarray(value) if isinstance(value, np.ndarray) else value for key, value in load(posterior).items()
    }
    return functools.partial(MODELS[posterior], data)


def density(posterior: str, x: np.ndarray) -> np.ndarray:
    made = model(posterior)
    one = jax.jit(lambda parameters: log_density(made, (), {}, parameters)[0])
    return np.array([one(named(posterior, row)) for row in x])


@functools.cache
def compiled(posterior: str, method: str, chains: int, n_warmup: int, n_draws: int) -> tuple[Any, Any]:
    """Warm-up and draws as a function each, since `MCMC.run` by itself compiles anew at every call."""

    def fresh() -> MCMC:
        return MCMC(NUTS(made), num_warmup=n_warmup, num_samples=n_draws, num_chains=chains, chain_method=method,
                    progress_bar=False)  # fmt: skip

    def warm_up(key: Any) -> Any:
        mcmc = fresh()
        mcmc.warmup(key, extra_fields=("num_steps",))
        return mcmc.post_warmup_state

    def draw(state: Any) -> tuple[dict[str, Any], Any]:
        mcmc = fresh()
        mcmc.post_warmup_state = state
        mcmc.run(state.rng_key, extra_fields=("num_steps",))
        return mcmc.get_samples(group_by_chain=True), mcmc.get_extra_fields()["num_steps"]

    made = model(posterior)
    return jax.jit(warm_up), jax.jit(draw)


def run(posterior: str, n_warmup: int, n_draws: int, seed: int, method: str,
        chains: int) -> Run:  # fmt: skip
    warm_up, draw = compiled(posterior, method, chains, n_warmup, n_draws)
    began = time.perf_counter()
    state = jax.block_until_ready(warm_up(jax.random.key(seed)))
    warm = time.perf_counter()
    draws, gradients = jax.block_until_ready(draw(state))
    done = time.perf_counter()
    draws = stacked(posterior, {name: draws[name] for name in PARAMETERS[posterior]})
    return done - began, warm - began, done - warm, draws, int(gradients.sum())


serve(density, run)
