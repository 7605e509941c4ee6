"""`CUDALangevinDynamics`: the kernel and its twin give the same run, and what the kernel cannot do goes elsewhere."""

import math

import pytest
import torch

from torchebm.core import (
    DoubleWellModel,
    EnergyModel,
    HarmonicModel,
    LinearScheduler,
    SamplingDivergenceWarning,
    Target,
)
from torchebm.cuda import CUDALangevinDynamics, kernels, langevin, launch, philox_normal_
from torchebm.cuda.philox import step_keys
from torchebm.samplers import LangevinDynamics, ParallelTempering

F32, F64 = torch.float32, torch.float64
TOLERANCE = {F32: 1e-6, F64: 1e-12}
both_dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=str)
everywhere = pytest.mark.parametrize("backend", ["triton", "twin"])


def sampler(backend, model=None, **options):
    return CUDALangevinDynamics(model or DoubleWellModel(), **{"step_size": 0.02, **options}, backend=backend)


def seeded(key=0):
    return torch.Generator().manual_seed(key)


SETTINGS = {
    "plain": {},
    "schedules": {"step_size": lambda t: 0.02 / (1 + t), "noise_scale": LinearScheduler(1.0, 0.1, 5)},
    "clamp": {"clamp": (-0.8, 0.7)},
    "gradient_clip": {"gradient_clip": 0.5},
    "no noise": {"noise_scale": 0.0},
}


@both_dtypes
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_kernel_and_twin_agree(points, seeded_on, dtype, options):
    x = points(7, 3, dtype=dtype)
    everything = {"return_trajectory": True, "return_diagnostics": True, "return_state": True}
    runs = [
        sampler(backend, **options).sample(x, n_steps=5, generator=seeded_on(), **everything)
        for backend in ("triton", "twin")
    ]
    (a, told_a, state_a), (b, told_b, state_b) = runs
    close = {"rtol": 4 * TOLERANCE[dtype], "atol": 4 * TOLERANCE[dtype]}
    torch.testing.assert_close(a, b, **close)
    torch.testing.assert_close(state_a.x, state_b.x, **close)
    assert state_a.step == state_b.step == 5
    assert list(told_a) == list(told_b)
    for name in told_a:
        torch.testing.assert_close(told_a[name], told_b[name], **close)


@both_dtypes
def test_the_twin_by_hand(dtype):
    """Two steps with noise of known keys."""
    x, h = torch.randn(5, 3, generator=seeded(), dtype=dtype), 0.02
    drawn = sampler("twin").sample(x, n_steps=2, generator=seeded(3))
    for key, position in step_keys(2, seeded(3), dtype, x.device).tolist():
        x = x - h * 8 * x * (x * x - 1) + math.sqrt(2 * h) * philox_normal_(torch.empty_like(x), key, position)
    torch.testing.assert_close(drawn, x, rtol=4 * TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


@everywhere
@both_dtypes
def test_fifty_and_fifty_are_a_hundred(points, seeded_on, monkeypatch, backend, dtype):
    x = points(3, 2, dtype=dtype)
    whole = sampler(backend).sample(x, n_steps=10, generator=seeded_on())
    monkeypatch.setattr(langevin, "_MOST_STEPS", 4)  # however it is cut into launches
    generator, part = seeded_on(), x
    for n in (3, 0, 7):
        part = sampler(backend).sample(part, n_steps=n, generator=generator)
    assert torch.equal(part, whole)
    first, state = sampler(backend).sample(x, n_steps=6, generator=(generator := seeded_on()), return_state=True)
    assert not torch.equal(first, whole)
    assert torch.equal(sampler(backend).sample(state=state, n_steps=4, generator=generator), whole)


@everywhere
def test_generators(points, seeded_on, backend):
    x = points(3, 2)
    before = torch.get_rng_state()
    a, b = (sampler(backend).sample(x, n_steps=2, generator=seeded_on(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, sampler(backend).sample(x, n_steps=2, generator=seeded_on(2)))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert torch.equal(sampler(backend).sample(x, n_steps=2), a)


def test_how_a_run_is_cut_into_launches_changes_nothing(points, seeded_on, monkeypatch):
    x, target = points(3, 2), Target(DoubleWellModel())
    one = sampler("triton", step_size=lambda t: 0.05 / (1 + t), noise_scale=lambda t: 1.0 + t, gradient_clip=2.0)
    states, seen = [], []
    options = {"target": target, "generator": None}
    for most in (100, 3):
        monkeypatch.setattr(langevin, "_MOST_STEPS", most)
        notices, observed = [], []
        options["generator"] = seeded_on()
        last = one.advance(one.init(x, target, None), 2, 8, notice=lambda n, s, told=notices: told.append((n, s.x)),
                           observe=lambda i, s, info, told=observed: told.append((i, s.x, info.diverging)),
                           **options)  # fmt: skip
        assert [n for n, _ in notices] == ([8] if most == 100 else [3, 3, 2])
        assert [i for i, *_ in observed] == list(range(8))
        assert torch.equal(notices[-1][1], last.x)
        assert torch.equal(observed[-1][1], last.x)
        assert not any(diverging.any() for *_, diverging in observed)
        states.append(last.x)
        seen.append(torch.stack([each for _, each, _ in observed]))
    assert torch.equal(*states)
    assert torch.equal(*seen)


@pytest.mark.parametrize("thin", [1, 2, 3, 7])
@pytest.mark.parametrize("diagnostics", [False, True])
def test_trajectories(points, seeded_on, monkeypatch, thin, diagnostics):
    """Draws are those of single runs, whatever a launch holds."""
    monkeypatch.setattr(langevin, "_MOST_STEPS", 5)
    x, model = points(3, 2), HarmonicModel()
    run = sampler("triton", model).sample(x, n_steps=7, thin=thin, return_trajectory=True,
                                          return_diagnostics=diagnostics, generator=seeded_on())  # fmt: skip
    trajectory = run[0] if diagnostics else run
    assert trajectory.shape == (3, 7 // thin, 2)
    for draw in range(7 // thin):
        single = sampler("triton", model).sample(x, n_steps=(draw + 1) * thin, generator=seeded_on())
        assert torch.equal(trajectory[:, draw], single)
        if diagnostics:
            torch.testing.assert_close(run[1]["energy"][:, draw], model(single))


def test_launches_are_as_few_as_can_be(points, monkeypatch):
    launches = []

    def note(x, model, keys, steps, *, thin, **options):
        launches.append((len(keys), thin))
        return x, None if thin is None else x.expand(len(keys) // thin, *x.shape)

    monkeypatch.setattr(launch, "langevin_steps", note)
    monkeypatch.setattr(langevin, "_MOST_STEPS", 8)
    x = points(3, 2)

    def noted(n_steps, **options):
        launches.clear()
        sampler("triton").sample(x, n_steps=n_steps, **options)
        return list(launches)

    assert noted(19) == [(8, None), (8, None), (3, None)]
    assert noted(19, return_trajectory=True, thin=3) == [(6, 3), (6, 3), (6, 3), (1, 3)]
    assert noted(19, return_trajectory=True, thin=9) == [(9, 9), (9, 9), (1, 9)]
    assert noted(19, return_diagnostics=True, thin=9) == [(8, 1), (8, 1), (3, 1)]
    monkeypatch.setattr(langevin, "_MOST_KEPT", 12)  # two draws
    assert noted(5, return_trajectory=True) == [(2, 1), (2, 1), (1, 1)]


@everywhere
def test_temperatures_and_held_chains(points, seeded_on, backend):
    kernel, x = sampler(backend, HarmonicModel()), points(4, 2)
    target = Target(kernel.model)
    start = kernel.init(x, target, None)
    held = torch.tensor([False, True, False, True], device=x.device)
    per_chain = torch.tensor([1.0, 2.0, 3.0, 4.0], device=x.device)
    runs = [
        kernel.advance(start, 0, 3, target=target, generator=seeded_on(), temperature=t, held=h).x
        for t, h in ((2.0, None), (per_chain, None), (per_chain, held))
    ]
    assert torch.equal(runs[2][held], x[held])
    torch.testing.assert_close(runs[2][~held], runs[1][~held])
    torch.testing.assert_close(runs[0][1], runs[1][1])
    assert (runs[0][0] - runs[1][0]).abs().min() > 1e-3
    plain = LangevinDynamics(HarmonicModel(), 0.02)
    for t, run in zip((2.0, per_chain), runs, strict=False):
        y = x
        for key, position in step_keys(3, seeded_on(), x.dtype, x.device).tolist():
            xi = philox_normal_(torch.empty_like(y), key, position)
            state = plain.init(y, target, None)
            y = plain.step(state, (xi,), target, temperature=t, step_size=0.02, noise_scale=1.0)[0].x
        torch.testing.assert_close(run, y, rtol=4e-6, atol=4e-6)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # of the interpreter's NumPy
def test_chains_that_diverge_are_reported(points, seeded_on):
    x = points(3, 1).fill_(0.5)
    x[1] = 50.0
    with pytest.warns(SamplingDivergenceWarning, match="1 of 3 chains diverged"):
        x, told = sampler("triton").sample(x, n_steps=6, return_diagnostics=True, generator=seeded_on())
    assert x[1].isnan()
    assert x[0].isfinite()
    assert told["diverging"][1, -1]
    assert not told["diverging"][0].any()


def test_the_bias_is_that_of_langevin_dynamics():
    """4,000 chains in 3 dimensions after 60 steps: the variance k⁻¹ / (1 - hk/2) within 5 standard errors."""
    k, h = 2.0, 0.3
    x = sampler("twin", HarmonicModel(k), step_size=h).sample(dim=3, n_samples=4000, n_steps=60, generator=seeded())
    variance = 1 / k / (1 - h * k / 2)
    assert abs(float(x.mean())) < 5 * math.sqrt(variance / x.numel())
    assert abs(float(x.var()) / variance - 1) < 5 * math.sqrt(2 / x.numel())


def test_both_wells_are_visited_alike(points, seeded_on):
    """Of 512 chains from 0, at low noise: half in either well, within 5 standard errors."""
    x = sampler("triton", step_size=0.05).sample(points(512).zero_(), n_steps=12, generator=seeded_on())
    assert abs(int((x > 0).sum()) - 256) < 5 * math.sqrt(128)
    assert 0.4 < float(x.abs().mean()) < 1.2


# what the kernel does not run ----------------------------------------------------------------------------------------


def test_on_the_cpu_it_is_langevin_dynamics():
    x = torch.randn(5, 2, generator=seeded())
    runs = []
    for kind in (CUDALangevinDynamics, LangevinDynamics):
        one = kind(DoubleWellModel(), step_size=0.02, clamp=(-2.0, 2.0), gradient_clip=3.0)
        torch.manual_seed(0)
        runs.append((one.sample(x, n_steps=7, generator=seeded(3)), one.sample_step(x)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_single_steps_take_the_same_noise():
    """`sample_step`, and a loss that calls `step` itself, on the twin."""
    x, one = torch.randn(5, 2, generator=seeded()), sampler("twin")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        stepped = one.sample_step(x)
    assert torch.equal(stepped, one.sample(x, n_steps=1, generator=seeded(3)))


def test_draws_of_kernel_and_twin_agree(points, seeded_on):
    noises = []
    for backend in ("triton", "twin"):
        one = sampler(backend)
        (buffer,) = one.noise(points(5, 3), 2)
        generator = seeded_on()
        for row in buffer:
            one.draw((row,), generator)
        noises.append(buffer)
    torch.testing.assert_close(*noises, rtol=1e-6, atol=1e-6)
    assert (noises[0][0] - noises[0][1]).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("options", "run", "reason"),
    [
        ({}, {"model_kwargs": {"label": torch.zeros(3)}}, "model_kwargs were given"),
        ({"precision": "bf16"}, {}, "evaluated in torch.bfloat16"),
        ({"model": EnergyModel(lambda x: x.square().sum(-1))}, {}, "EnergyModel is not registered"),
        ({"model": HarmonicModel().tempered(2.0)}, {}, "WeightedSum is not registered"),
        ({"dtype": torch.bfloat16}, {}, "the chains are torch.bfloat16"),
    ],
    ids=["condition", "autocast", "network", "tempered", "bfloat16"],
)
def test_insisting_on_the_kernel_where_it_cannot_run(points, options, run, reason):
    with pytest.raises(ValueError, match=f"the kernel cannot run this: .*{reason}"):
        sampler("triton", **options).sample(points(3, 2), n_steps=2, **run)
    for backend in ("auto", "twin"):
        assert sampler(backend, **options).sample(points(3, 2), n_steps=2, **run).shape == (3, 2)


def test_tensors_as_parameters(points, seeded_on):
    target, x = Target(HarmonicModel()), points(3, 2)
    table = {"step_size": [torch.tensor(0.1, device=x.device)] * 2, "noise_scale": [1.0] * 2}
    one = sampler("triton", HarmonicModel())
    with pytest.raises(ValueError, match="its parameters are tensors"):
        one.advance(one.init(x, target, None), 0, 2, target=target, parameters=table)


def test_another_target_than_the_model(points):
    one, x = sampler("triton", HarmonicModel()), points(3, 2)
    with pytest.raises(ValueError, match="EnergyModel is not registered"):
        one.advance(one.init(x, None, None), 0, 1, target=Target(EnergyModel(lambda x: x.sum(-1))))


@pytest.mark.parametrize("name", ["step", "draw"])
def test_what_a_subclass_changes_is_not_passed_over(points, name):
    original = getattr(CUDALangevinDynamics, name)
    cls = type("Own", (CUDALangevinDynamics,), {name: lambda self, *a, **o: original(self, *a, **o)})
    with pytest.raises(ValueError, match="Own has a step or a draw of its own"):
        cls(HarmonicModel(), backend="triton").sample(points(3, 2), n_steps=1)
    assert "Own has" in cls(HarmonicModel()).why_not_fused(points(3, 2))


def test_why_not_fused(points):
    x = points(3, 2)
    assert sampler("triton").why_not_fused(x) is None
    assert sampler("twin").why_not_fused(x) == 'backend="twin" asks for plain PyTorch'
    assert (sampler("auto").why_not_fused(x) is None) == x.is_cuda
    with pytest.raises(ValueError, match='backend must be "auto", "triton" or "twin"; got \'fast\''):
        sampler("fast")


def test_inside_parallel_tempering():
    """Replicas at temperatures of their own, with the twin's noise."""
    tempering = ParallelTempering(HarmonicModel(), inner=CUDALangevinDynamics, temperatures=[1.0, 2.0], step_size=0.1)
    assert tempering.sample(dim=2, n_samples=3, n_steps=4, generator=seeded()).shape == (3, 2)


@pytest.mark.skipif(not torch.cuda.is_available() or not kernels.available(), reason="needs a GPU")
def test_a_million_entries_on_the_accelerator():
    x, runs = torch.zeros(250_001, 4, device="cuda"), []
    for backend in ("auto", "twin"):
        generator = torch.Generator("cuda").manual_seed(0)
        runs.append(sampler(backend).sample(x, n_steps=3, generator=generator))
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-5)
