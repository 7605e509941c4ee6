"""One Langevin step on any device, and, where there is an accelerator, losses on it."""

import inspect
import math

import pytest
import torch

import torchebm.cuda
from torchebm.core import DoubleWellEnergy, EnergyModel, GaussianModel
from torchebm.cuda import CUDALangevinDynamics, kernels, langevin_step_cuda, philox_normal_
from torchebm.cuda.philox import step_keys
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import LangevinDynamics

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
every_device = pytest.mark.parametrize("device", DEVICES)


def points(*shape, device="cpu", dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype).to(device)


def seeded(device, seed=0):
    return torch.Generator(device).manual_seed(seed)


def noise(x):
    """What the first step from `seeded` draws: in the kernel where there is one."""
    if x.is_cuda and kernels.available():
        ((key, position),) = step_keys(1, seeded(x.device), x.dtype, x.device).tolist()
        return philox_normal_(torch.empty_like(x), key, position)
    return torch.empty_like(x).normal_(generator=seeded(x.device))


@every_device
@pytest.mark.parametrize("event", [(), (3,), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("noise_scale", [0.0, 0.5, 1.0])
def test_one_step_by_hand(device, event, noise_scale):
    energy, h, x = DoubleWellEnergy(0.7, 1.5), 0.03, points(6, *event, device=device)
    kept = x.clone()
    expected = x - h * 4 * 0.7 * x * (x * x - 1.5) + noise_scale * math.sqrt(2 * h) * noise(x)
    stepped = langevin_step_cuda(x, energy, h, noise_scale, generator=seeded(device))
    torch.testing.assert_close(stepped, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(x, kept)
    assert stepped.device == x.device
    assert not stepped.requires_grad


@every_device
def test_it_is_the_samplers_own_step(device):
    energy, x = DoubleWellEnergy(), points(6, 2, device=device, dtype=torch.float32)
    expected = CUDALangevinDynamics(energy, 0.01, 1.0).sample(x=x, n_steps=1, generator=seeded(device))
    assert torch.equal(langevin_step_cuda(x, energy, 0.01, 1.0, generator=seeded(device)), expected)
    assert torch.equal(langevin_step_cuda(x, energy, generator=seeded(device)), expected)  # the defaults
    if device == "cpu":
        plain = LangevinDynamics(energy, 0.01, 1.0).sample(x=x, n_steps=1, generator=seeded(device))
        assert torch.equal(plain, expected)


def test_arguments_as_the_guide_gives_them():
    names = list(inspect.signature(langevin_step_cuda).parameters)
    assert names[:4] == ["x", "energy_function", "step_size", "noise_scale"]
    assert {"CUDALangevinDynamics", "langevin_step_cuda"} <= set(torchebm.cuda.__all__)
    assert "plain PyTorch" in langevin_step_cuda.__doc__
    with pytest.raises(ValueError, match="step_size must be greater than 0"):
        langevin_step_cuda(points(2, 2), DoubleWellEnergy(), -0.1)
    assert langevin_step_cuda(points(2, 2), lambda x: x.square().sum(-1), 0.1).shape == (2, 2)


def test_it_approaches_the_density():
    """2,000 chains from far away, 150 steps: mean within 5 standard errors, variance too, after the known bias."""
    energy, h, n = GaussianModel(torch.ones(1), torch.eye(1)), 0.2, 2000
    x, generator = torch.full((n, 1), 5.0), seeded("cpu")
    for _ in range(150):
        x = langevin_step_cuda(x, energy, h, generator=generator)
    variance = 1 / (1 - h / 2)
    assert abs(float(x.mean()) - 1) < 5 * math.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1) < 5 * math.sqrt(2 / n)


@every_device
@pytest.mark.parametrize("persistent", [False, True])
def test_losses_follow_the_data_to_its_device(device, persistent):
    torch.manual_seed(0)
    model = EnergyModel(torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))).to(device)
    batch, generator = points(16, 2, device=device, dtype=torch.float32), seeded(device)

    def build():
        return ContrastiveDivergence(model, LangevinDynamics(model), k_steps=2, persistent=persistent, buffer_size=20)

    loss_fn = build()
    loss, negatives = loss_fn(batch, generator=generator)
    loss.backward()
    assert loss.device == negatives.device == batch.device
    if persistent:
        assert loss_fn.replay_buffer.chains.device == batch.device
        other = build()
        other.load_state_dict({name: t.cpu() for name, t in loss_fn.state_dict().items()})  # as from a file
        a, b = (fn(batch, generator=seeded(device, 3)) for fn in (loss_fn, other))
        assert torch.equal(a[1], b[1])
        assert other.replay_buffer.chains.device == batch.device
        assert torch.equal(other.replay_buffer.chains, loss_fn.replay_buffer.chains)
