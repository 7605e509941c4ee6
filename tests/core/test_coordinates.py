"""Compiled functions of few coordinates: taken apart or left as they are, they give what they gave."""

import math
import uuid

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from torchebm.core import DoubleWellModel, GaussianModel, inductor
from torchebm.core.coordinates import _LARGEST, take_apart
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics, MetropolisAdjustedLangevin

N = 70  # chains

TAKEN = {
    "sum": lambda x: x - x.sum(1, keepdim=True),
    "sum, then a dimension": lambda x: x * x.sum((1,)).unsqueeze(1),
    "mean": lambda x: x - x.mean(1, keepdim=True),
    "largest and least": lambda x: x / (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)),
    "any": lambda x: torch.where((x > 1).any(1, keepdim=True), x, -x),
    "product": lambda x: x @ torch.arange(1.0, 5).reshape(2, 2),
    "product with more columns": lambda x: (x @ torch.arange(1.0, 7).reshape(2, 3)) @ torch.ones(3, 2),
    "selected": lambda x: torch.cat([x[:, 1, None], x[:, 0, None] ** 2], 1),
    "unbound": lambda x: torch.cat([part.sin()[:, None] for part in x.unbind(-1)[::-1]], 1),
    "sliced": lambda x: torch.cat([x[:, 1:], x[:, :1] * 2], 1),
    "expanded": lambda x: x.sum(1, keepdim=True).expand(-1, 2) * x,
    "numbers that chains share": lambda x: (x * torch.tensor([1.0, 2])).sum(1)[:, None] + torch.tensor([[3.0, 4]]),
    "selected and put back": lambda x: torch.select_scatter(x, x[:, 0] ** 2, 1, 1),
    "sliced and put back": lambda x: torch.slice_scatter(x, x[:, :1] ** 2, 1, 1, 2),
    "every other one": lambda x: torch.cat([x[:, ::2], x[:, 1::2].sum(1, keepdim=True)], 1),
    "cloned": lambda x: x.clone(memory_format=torch.contiguous_format) * x.sum(1, keepdim=True),
    "squeezed": lambda x: x * x.sum(1, keepdim=True).squeeze(1).unsqueeze(1),
    "bounded by a number of each": lambda x: x.clamp(min=None, max=x.sum(1, keepdim=True)),
    "written over without waiting": lambda x: torch.ops.aten.copy(x, x.sum(1, keepdim=True), True),
    "the rest put back": lambda x: torch.ops.aten.slice_scatter(x, x[:, :1] ** 2, 1, 1),
    "written over": lambda x: torch.ops.aten.copy(x, x.sum(1, keepdim=True)),
    "filled": lambda x: torch.full((N, 2), 2.0) + x.sum(1)[:, None],
    "three dimensions": lambda x: (x[:, None, :] * x[:, :, None]).sum(2),
    "a sum over chains of what is given": lambda x: x - x.mean(0) + x.sum(1, keepdim=True),
    "another dtype": lambda x: x.sum(1, keepdim=True) * torch.tensor([1.0, 3], dtype=torch.float64),
}

LEFT = {
    "no coordinate meets another": lambda x: x.sin() * 2,
    "a sum over chains": lambda x: x - (x * 2).mean(0) + x.sum(1, keepdim=True),
    "chains meet": lambda x: x.flip(0) + x.sum(1, keepdim=True),
    "one chain": lambda x: (x * 2)[:1] + x.sum(1, keepdim=True),
    "many numbers of a chain": lambda x: (x @ torch.ones(2, 40)).tanh() @ torch.ones(40, 2),
    "chains last": lambda x: (torch.ones(2, 2) @ x.T).T,
    "no rule": lambda x: x.cumsum(1),
    "more than one result": lambda x: x.sort(1)[0],
    "a sum in another dtype": lambda x: x.sum(1, keepdim=True, dtype=torch.float64) * x,
    "written into": lambda x: (x + x.sum(1, keepdim=True)).sin_(),
    "random numbers": lambda x: torch.rand_like(x) * 0 + x.sum(1, keepdim=True),
    "found at the end": lambda x: torch.cat(
        [x * x.sum(1, keepdim=True), (x * 2).mean(0, keepdim=True).expand(N, 2)], 1
    )[:, 1:3],
    "a count": lambda x: (x > 0).sum(1, keepdim=True) * x,
}


def traced(function, x):
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(x)


@pytest.fixture
def rewritten(monkeypatch):
    """Whether each graph that was compiled was taken apart."""
    answers = []
    monkeypatch.setattr(inductor.products, "settings", lambda: uuid.uuid4().hex)  # nothing from a cache
    monkeypatch.setattr(inductor, "take_apart", lambda graph: answers.append(take_apart(graph)) or answers[-1])
    return answers


@pytest.mark.parametrize("name", TAKEN)
def test_taken_apart(name, generator):
    x = torch.randn(N, 2, generator=generator)
    module, expected = traced(TAKEN[name], x), TAKEN[name](x)
    assert take_apart(module.graph)
    module.graph.lint()
    module.recompile()
    torch.testing.assert_close(module(x), expected)
    assert module(x).stride() == expected.stride()
    numbers = [math.prod(node.meta["val"].shape) for node in module.graph.nodes if node.op == "call_function"]
    assert numbers.count(N) >= 2  # of the operations
    assert numbers.count(2 * N) <= 3 + 4  # two to write x down, one to make it so, and joining the result


@pytest.mark.parametrize("name", LEFT)
def test_left_as_it_is(name, generator):
    x = torch.randn(N, 2, generator=generator)
    module, expected = traced(LEFT[name], x), LEFT[name](x)
    module.graph.eliminate_dead_code()
    before = [node.name for node in module.graph.nodes]
    assert not take_apart(module.graph)
    assert [node.name for node in module.graph.nodes] == before
    module.recompile()
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("shape", [(20, 2), (N, 5), (N,), (2,)], ids=str)
def test_few_chains_and_many_coordinates_are_left(shape):
    module = traced(lambda x: x - x.sum(-1, keepdim=True), torch.ones(shape))
    before = [node.name for node in module.graph.nodes]
    assert not take_apart(module.graph)
    assert [node.name for node in module.graph.nodes] == before


def test_points_that_are_matrices(generator):
    x = torch.randn(N, 2, 2, generator=generator)

    def both(x):
        return x * x.sum(2, keepdim=True) + x[:, 1, None, :]

    module = traced(both, x)
    assert take_apart(module.graph)
    module.recompile()
    torch.testing.assert_close(module(x), both(x))


def test_some_of_many_numbers_of_a_chain_are_left(generator):
    x = torch.randn(N, N, 2, generator=generator)  # whose second dimension could be mistaken for chains

    def some(x):
        return x[:, 1] + x[:, 2].sum(1, keepdim=True)

    module = traced(some, x)
    assert not take_apart(module.graph)
    module.recompile()
    torch.testing.assert_close(module(x), some(x))


def test_large_graphs_are_left():
    def long(x):
        for _ in range(_LARGEST // 3 + 1):
            x = x - x.sum(1, keepdim=True)
        return x

    assert not take_apart(traced(long, torch.ones(N, 2)).graph)


@pytest.mark.parametrize(
    "lay", [lambda x: x.T.contiguous().T, lambda x: x.repeat(1, 3)[:, ::3], lambda x: x[:, :1].expand(-1, 2)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_noise_conditions_and_layouts(lay, dtype, rewritten, through_inductor, generator):
    """What a block reads, laid out as it comes; what it gives back more than once, or as it came."""
    x, noise = (torch.randn(*s, 2, generator=generator).to(dtype) for s in ((N,), (N, N)))
    steps, each = torch.rand(N, generator=generator), torch.rand(N, generator=generator) > 0.5

    def block(x, noise, steps, each):
        y = x
        for k in range(2):
            y = torch.where(each[:, None], y - steps[k].to(dtype) * (y - y.sum(1, keepdim=True)) + noise[k], y)
        return y, x, y, None, y.sum(1), each

    got, expected = (run(lay(x), noise, steps, each) for run in (through_inductor(block), block))
    assert rewritten == [True]
    assert got[3] is None
    loose = {"rtol": 0.05, "atol": 0.05} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for a, b in zip(got, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, **loose)
            assert a.stride() == b.stride()


def test_an_argument_that_is_written_into(rewritten, through_inductor, generator):
    def block(x):
        x.mul_(x.sum(1, keepdim=True))
        return x + x.sum(1, keepdim=True)

    x = torch.randn(N, 2, generator=generator)
    expected, got = x.clone(), x.clone()
    torch.testing.assert_close(through_inductor(block)(got), block(expected))
    torch.testing.assert_close(got, expected)
    assert rewritten == [False]


class Banana(nn.Module):
    """A model as people write it, of which autograd makes the gradient."""

    def forward(self, x):
        a, b = x[:, 0], x[:, 1]
        return 0.5 * a**2 + (b - a**2) ** 2


def gaussian(dim=2):
    return GaussianModel(torch.arange(float(dim)), torch.full((dim, dim), 0.3) + torch.eye(dim))


@pytest.mark.parametrize(
    ("make", "dim"),
    [
        (lambda: LangevinDynamics(gaussian(), 0.01), 2),
        (lambda: MetropolisAdjustedLangevin(DoubleWellModel(), 0.01), 3),
        (lambda: MetropolisAdjustedLangevin(Banana(), 0.01), 2),
        (lambda: HamiltonianMonteCarlo(gaussian(4), 0.1, n_leapfrog_steps=2, path_jitter=0.0), 4),
    ],
    ids=["Langevin", "MALA", "MALA on a function", "HMC"],
)
def test_a_compiled_block_is_taken_apart_and_agrees_with_eager_steps(make, dim, rewritten, seeded):
    x = torch.randn(N, dim, generator=seeded())
    runs = [s.sample(x, n_steps=4, thin=2, return_trajectory=True, generator=seeded(1))
            for s in (make(), make().compile(block=2))]  # fmt: skip
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-5)
    assert rewritten
    assert all(rewritten)


def test_a_block_of_a_network_is_left(rewritten, seeded):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 40), nn.SiLU(), nn.Linear(40, 1), nn.Flatten(0))
    sampler = LangevinDynamics(network, 0.01).compile(block=2)
    sampler.sample(torch.randn(N, 2, generator=seeded()), n_steps=2, generator=seeded(1))
    assert rewritten == [False]


def test_numbers_of_chains_that_the_compiler_is_not_told(seeded):
    sampler = LangevinDynamics(gaussian(), 0.01)
    x = torch.randn(N, 2, generator=seeded())
    expected = sampler.sample(x, n_steps=2, generator=seeded(1))
    compiled = sampler.compile(block=2, dynamic=True).sample(x, n_steps=2, generator=seeded(1))
    torch.testing.assert_close(compiled, expected, rtol=1e-5, atol=1e-5)
