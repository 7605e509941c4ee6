"""Compiled blocks whose results are the caller's own."""

import pytest
import torch

from torchebm.core import EnergyModel
from torchebm.cuda import CUDALangevinDynamics, graphs
from torchebm.samplers import LangevinDynamics


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EnergyModel(torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)))


def seeded():
    return torch.Generator().manual_seed(0)


def test_runs_are_those_without_compilation():
    x, model = torch.randn(5, 2, generator=seeded()), network()
    plain = LangevinDynamics(model, 0.01).sample(x, n_steps=11, return_trajectory=True, generator=seeded())
    sampler = CUDALangevinDynamics(model, 0.01).compile(backend="eager")
    compiled = sampler.sample(x, n_steps=11, return_trajectory=True, generator=seeded())
    assert isinstance(sampler.compiled, graphs.GraphedBlocks)
    torch.testing.assert_close(compiled, plain)
    assert sampler.compiled.function.seconds > 0
    assert sampler.compile(block=3, backend="eager").compiled.block == 3


def test_weights_that_change_are_seen():
    x, model = torch.randn(5, 2, generator=seeded()), network()
    sampler = CUDALangevinDynamics(model, 0.1).compile(block=2, backend="eager")
    before = sampler.sample(x, n_steps=4, generator=seeded())
    with torch.no_grad():
        model.network[2].weight.mul_(3)
    after = sampler.sample(x, n_steps=4, generator=seeded())
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, LangevinDynamics(model, 0.1).sample(x, n_steps=4, generator=seeded()))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"triton.cudagraphs": True}),
        ({"options": {"max_autotune": False}}, {"triton.cudagraphs": True, "max_autotune": False}),
        ({"options": {"triton.cudagraphs": False}}, {"triton.cudagraphs": False}),
        ({"mode": "default"}, None),
        ({"backend": "eager"}, None),
    ],
)
def test_graphs_are_asked_for_on_an_accelerator(monkeypatch, options, expected):
    asked = []
    function = CUDALangevinDynamics(network()).compile(**options).compiled.function
    monkeypatch.setattr(torch, "compile", lambda fn, **o: asked.append(o) or fn)
    function._compile(torch.device("cuda"), differentiated=False, small=True)
    assert asked[0].get("options") == expected
    assert asked[0]["fullgraph"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_accelerator():
    x, model = torch.randn(50, 2, generator=seeded()).cuda(), network().cuda()
    runs = []
    for kind in (LangevinDynamics, CUDALangevinDynamics):
        sampler = kind(model, 0.01)
        if kind is CUDALangevinDynamics:
            sampler.compile(block=4)
        generator = torch.Generator("cuda").manual_seed(0)
        runs += [sampler.sample(x, n_steps=23, return_trajectory=True, generator=generator) for _ in range(2)]
    torch.testing.assert_close(runs[0], runs[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(runs[1], runs[3], rtol=1e-4, atol=1e-4)
