"""BlackJAX: its kernels, vectorised over chains, in one compiled scan."""

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
from blackjax.mcmc import diffusions
from cells import LEAPFROG_STEPS, Cell
from protocol import Prepared, serve


def dense(key: jax.Array, n_in: int, n_out: int) -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(key, (n_in, n_out)) / n_in**0.5, jnp.zeros(n_out)


def log_density(cell: Cell) -> Callable[[jax.Array], jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    if cell.energy == "double_well":
        return lambda x: -2 * ((x * x - 1) ** 2).sum(-1)
    if cell.energy == "gaussian":
        rotation = jnp.linalg.qr(jax.random.normal(keys[0], (cell.dim, cell.dim)))[0]
        precision = (rotation / jnp.logspace(-0.6, 0.6, cell.dim)) @ rotation.T
        return lambda x: -0.5 * ((x @ precision) * x).sum(-1)
    if cell.energy == "mlp":
        sizes = (cell.dim, 128, 128, 1)
        (w1, b1), (w2, b2), (w3, b3) = (dense(key, *sizes[i : i + 2]) for i, key in enumerate(keys))
        return lambda x: -(jax.nn.silu(jax.nn.silu(x @ w1 + b1) @ w2 + b2) @ w3 + b3)[..., 0]
    k1 = jax.random.normal(keys[0], (16, 1, 3, 3)) / 3
    k2 = jax.random.normal(keys[1], (32, 16, 3, 3)) / 12
    w, b = dense(keys[2], 512, 1)

    def conv(x: jax.Array) -> jax.Array:
        h = jax.nn.silu(jax.lax.conv(x.reshape(1, 1, 8, 8), k1, (1, 1), "SAME"))
        h = jax.nn.silu(jax.lax.conv_general_dilated(h, k2, (2, 2), ((1, 1), (1, 1))))
        return -(h.reshape(-1) @ w + b)[0]

    return conv


def kernel(cell: Cell, density: Callable[[jax.Array], jax.Array]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    if cell.sampler == "langevin":
        step = diffusions.overdamped_langevin(jax.value_and_grad(density))
        return (lambda x: diffusions.DiffusionState(x, *jax.value_and_grad(density)(x)),
                lambda key, state: step(key, state, cell.step_size))  # fmt: skip
    inverse_mass = jnp.ones(cell.dim)
    if cell.sampler == "mala":
        algorithm = blackjax.mala(density, cell.step_size)
    elif cell.sampler == "hmc":
        algorithm = blackjax.hmc(density, cell.step_size, inverse_mass, LEAPFROG_STEPS)
    else:
        algorithm = blackjax.nuts(density, cell.step_size, inverse_mass)
    return algorithm.init, lambda key, state: algorithm.step(key, state)[0]


def prepare(cell: Cell) -> Prepared:
    init, step = kernel(cell, log_density(cell))
    start = jax.random.normal(jax.random.key(1), (cell.chains, cell.dim))

    @jax.jit
    def chains(x: jax.Array, keys: jax.Array) -> jax.Array:
        def one(states: Any, key: jax.Array) -> tuple[Any, None]:
            return jax.vmap(step)(jax.random.split(key, cell.chains), states), None

        return jax.lax.scan(one, jax.vmap(init)(x), keys)[0].position

    def run(n_steps: int) -> None:
        chains(start, jax.random.split(jax.random.key(2), n_steps)).block_until_ready()

    return run


serve(prepare)
