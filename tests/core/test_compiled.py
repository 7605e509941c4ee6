"""Compiled blocks: the same transitions, from the same random numbers, compiled once."""

import copy
import pickle
from typing import NamedTuple

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, HarmonicModel, LinearScheduler, SamplingDivergenceWarning, Target
from torchebm.core.compiled import CompiledBlocks, CompiledEnergy, fitting
from torchebm.core.specialised import CompilationError, owned
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import (
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    NoUTurnSampler,
    ParallelTempering,
    UnderdampedLangevin,
)

EVERYTHING = {"return_trajectory": True, "return_diagnostics": True, "return_state": True}


class Backend:
    """Runs what Dynamo traced as it is, and counts how often it traced."""

    def __init__(self):
        self.traced = 0

    def __call__(self, graph, inputs):
        self.traced += 1
        return graph.forward


class Quartic(BaseModel):
    def __init__(self):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(1.0))

    def forward(self, x, shift=0.0):
        return (((x - shift) / self.width) ** 4).flatten(1).sum(1)


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def compiles(case, backend):
    """A sampler of each kind, and its twin that is not compiled."""
    sampler = case.make(Quartic())
    block = None if sampler.steps_per_block is None else 4
    return sampler.compile(block=block, backend=backend), case.make(Quartic())


def test_blocks_are_the_transitions_that_they_replace(compiles, backend, seeded):
    compiled, plain = compiles
    x, one, two = torch.full((3, 2), 0.5, dtype=torch.float64), seeded(), seeded()
    got = compiled.sample(x, n_steps=10, generator=one, **EVERYTHING)  # two blocks, and two steps
    expected = plain.sample(x, n_steps=10, generator=two, **EVERYTHING)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-9, atol=1e-9)
    assert got[1].keys() == expected[1].keys()
    for name in got[1]:
        torch.testing.assert_close(got[1][name], expected[1][name], rtol=1e-7, atol=1e-7, equal_nan=True)
    for leaf, other in zip(got[2].kernel, expected[2].kernel, strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-9, atol=1e-9)
    assert torch.equal(one.get_state(), two.get_state())
    assert backend.traced == 1
    last = compiled.sample(x, n_steps=10, generator=seeded())  # nothing but the last state is wanted
    torch.testing.assert_close(last, expected[0][:, -1], rtol=1e-9, atol=1e-9)
    assert backend.traced == (1 if compiled.steps_per_block is None else 2)


class OneForAll(LangevinDynamics):
    """Every chain gets the same noise."""

    def draw(self, out, generator):
        out[0].copy_(torch.randn(2, generator=generator, dtype=out[0].dtype).expand_as(out[0]))


def of_its_own(model, step_size):
    """A sampler that draws in another way than its class does."""
    sampler = LangevinDynamics(model, step_size=step_size)
    sampler.draw = OneForAll.draw.__get__(sampler)
    return sampler


@pytest.mark.parametrize("n_chains", [8, 9])
@pytest.mark.parametrize("make", [LangevinDynamics, OneForAll, of_its_own], ids=lambda make: make.__name__)
def test_blocks_get_the_noise_that_steps_get(make, n_chains, backend, seeded):
    """Whether it can be drawn for all of a block at once, as for 16 numbers a step, or not, or by a draw of its own."""
    x, one, two = torch.full((n_chains, 2), 0.5, dtype=torch.float64), seeded(), seeded()
    got = make(Quartic(), step_size=0.01).compile(block=4, backend=backend).sample(x, n_steps=10, generator=one)
    expected = make(Quartic(), step_size=0.01).sample(x, n_steps=10, generator=two)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(one.get_state(), two.get_state())


@pytest.mark.parametrize(
    ("cls", "n_chains", "n_calls"), [(LangevinDynamics, 8, 1), (LangevinDynamics, 9, 4), (OneForAll, 8, 0)]
)
def test_noise_of_a_block_takes_one_call_where_it_can(cls, n_chains, n_calls, monkeypatch, seeded):
    sampler, calls = cls(HarmonicModel()), []
    noise = sampler.noise(torch.zeros(n_chains, 2), 4)
    monkeypatch.setattr("torchebm.core.markov.normal_", lambda *arguments: calls.append(arguments))
    sampler.filling(noise)(seeded())
    assert len(calls) == n_calls


def test_values_compile_nothing(compiles, backend, case, seeded):
    compiled, _ = compiles
    x, schedule = torch.full((3, 2), 0.5), LinearScheduler(0.1, 0.2, 8)
    compiled.sample(x, n_steps=8, generator=seeded())
    assert backend.traced == 1
    if case.cls is ParallelTempering:
        compiled.inner.step_size = schedule
    else:
        setattr(compiled, case.positive, schedule)
    with torch.no_grad():
        compiled.model.width.mul_(2)
    got = compiled.sample(x, n_steps=8, generator=seeded())
    assert backend.traced == 1
    plain = case.make(compiled.model, **{case.positive: schedule})
    torch.testing.assert_close(got, plain.sample(x, n_steps=8, generator=seeded()), rtol=1e-4, atol=1e-4)


def test_another_mass_compiles_nothing_if_it_is_of_the_same_kind(backend, seeded):
    sampler = UnderdampedLangevin(Quartic(), mass=torch.tensor([1.0, 2.0])).compile(block=2, backend=backend)
    x = torch.full((3, 2), 0.5)
    sampler.sample(x, n_steps=2, generator=seeded())
    sampler.mass = torch.tensor([3.0, 4.0])
    sampler.mass[0] = 5.0  # in place
    got = sampler.sample(x, n_steps=2, generator=seeded())
    assert backend.traced == 1
    plain = UnderdampedLangevin(sampler.model, mass=torch.tensor([5.0, 4.0]))
    torch.testing.assert_close(got, plain.sample(x, n_steps=2, generator=seeded()))


def test_conditions_and_temperatures_compile_nothing(backend, seeded):
    sampler = MetropolisAdjustedLangevin(Quartic(), step_size=0.1).compile(block=2, backend=backend)
    plain = MetropolisAdjustedLangevin(sampler.model, step_size=0.1)
    x = torch.zeros(5, 1)
    for shift in (0.0, 3.0):
        condition = {"shift": torch.full((5, 1), shift)}
        got = sampler.sample(x, n_steps=2, model_kwargs=condition, generator=seeded())
        torch.testing.assert_close(got, plain.sample(x, n_steps=2, model_kwargs=condition, generator=seeded()))
    assert backend.traced == 1


def test_conditions_may_be_lists(backend, seeded):
    class Sum(BaseModel):
        def forward(self, x, shifts):
            return sum((x - shift).square().sum(-1) for shift in shifts)

    plain, compiled = (LangevinDynamics(Sum(), step_size=0.1) for _ in range(2))
    compiled.compile(block=2, backend=backend)
    options = {"n_steps": 2, "model_kwargs": {"shifts": [torch.ones(2), torch.zeros(2)]}}
    x = torch.ones(3, 2)
    got, expected = (sampler.sample(x, generator=seeded(), **options) for sampler in (compiled, plain))
    torch.testing.assert_close(got, expected)


def test_many_chains_get_shorter_blocks(backend, monkeypatch, seeded):
    """Noise for a whole block of them would fill the memory."""
    monkeypatch.setattr("torchebm.core.compiled._MOST_NOISE", 3 * 10)
    sampler = LangevinDynamics(HarmonicModel()).compile(block=16, backend=backend)
    lengths = []
    noise = sampler.noise
    sampler.noise = lambda x, n: lengths.append(n) or noise(x, n)
    x = torch.ones(5, 2)
    got = sampler.sample(x, n_steps=7, generator=seeded())
    assert max(lengths) == 3
    torch.testing.assert_close(got, LangevinDynamics(HarmonicModel()).sample(x, n_steps=7, generator=seeded()))
    assert backend.traced == 1


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (LangevinDynamics(HarmonicModel()), [16, 16, 16, 8]),
        (LangevinDynamics(Quartic()), [8, 4, 4, 4]),
        (HamiltonianMonteCarlo(HarmonicModel(), n_leapfrog_steps=10, path_jitter=0.0), [2, 2, 2, 1]),
        (HamiltonianMonteCarlo(Quartic(), n_leapfrog_steps=30, path_jitter=0.0), [1, 1, 1, 1]),
    ],
)
def test_blocks_are_shorter_where_calling_them_is_little_of_the_time(sampler, expected, backend, monkeypatch):
    sizes = []
    monkeypatch.setattr("torchebm.core.compiled.fitting", lambda size, n_steps: sizes.append(size) or 1)
    for n in (2, 4096, 20_000, 50_000):
        sampler.compile(backend=backend).sample(torch.ones(n, 2), n_steps=2)
    assert sizes == expected


def test_any_number_of_chains(backend):
    """Dynamo itself gives up after eight."""
    sampler = LangevinDynamics(HarmonicModel()).compile(block=2, backend=backend)
    for n in range(1, 13):
        assert sampler.sample(torch.ones(n, 2), n_steps=4).shape == (n, 2)
    assert backend.traced == 12
    sampler.sample(torch.ones(3, 2), n_steps=4)
    assert backend.traced == 12


def test_any_number_of_settings(backend, seeded):
    """Python's numbers are part of a trace; Dynamo itself gives up after eight."""
    model = HarmonicModel()
    sampler, plain = LangevinDynamics(model).compile(block=2, backend=backend), LangevinDynamics(model)
    for k in range(1, 13):
        model.k = float(k)
        got, expected = (s.sample(torch.ones(3, 2), n_steps=4, generator=seeded()) for s in (sampler, plain))
        torch.testing.assert_close(got, expected)


def test_runs_of_other_lengths_compile_nothing(backend, seeded):
    sampler = LangevinDynamics(HarmonicModel()).compile(backend=backend)
    for n_steps in (*range(50, 80), 1000, 30):
        sampler.sample(torch.ones(3, 2), n_steps=n_steps)
    assert backend.traced == 1
    sampler.sample(torch.ones(3, 2), n_steps=5)  # too few for that block
    assert backend.traced == 2


def test_a_block_that_was_asked_for_is_kept(backend, monkeypatch):
    sampler = LangevinDynamics(HarmonicModel()).compile(block=5, backend=backend)
    sizes, noise = set(), sampler.noise
    monkeypatch.setattr(sampler, "noise", lambda x, n: sizes.add(n) or noise(x, n))
    for n_steps in (7, 12, 100):
        sampler.sample(torch.ones(3, 2), n_steps=n_steps)
    assert sizes == {1, 5}
    assert backend.traced == 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_has_settings_of_its_own(copied, seeded):
    sampler = LangevinDynamics(HarmonicModel(), step_size=0.1).compile(block=2, backend="eager")
    other = copied(sampler)
    other.clamp = (-0.01, 0.01)
    x = torch.zeros(10, 2)
    assert other.sample(x, n_steps=4, generator=seeded()).abs().max() <= 0.01
    assert sampler.sample(x, n_steps=4, generator=seeded()).abs().max() > 0.01
    assert (other.compiled.block, other.compiled.function.options) == (2, {"backend": "eager"})


def test_a_setting_that_leaves_the_step_to_the_host_compiles_the_energy(backend, seeded):
    samplers = [HamiltonianMonteCarlo(Quartic(), n_leapfrog_steps=2, path_jitter=0.0) for _ in range(2)]
    samplers[0].compile(backend=backend)
    for path_jitter, kind in ((0.0, CompiledBlocks), (0.5, CompiledEnergy), (0.0, CompiledBlocks)):
        for sampler in samplers:
            sampler.path_jitter = path_jitter
        runs = [sampler.sample(torch.ones(3, 2), n_steps=4, generator=seeded()) for sampler in samplers]
        torch.testing.assert_close(*runs)
        assert type(samplers[0].compiled) is kind


def test_around_a_compiled_sampler_the_whole_is_compiled(backend, seeded):
    inner = HamiltonianMonteCarlo(Quartic(), n_leapfrog_steps=2, path_jitter=0.0)
    ParallelTempering(inner.compile(backend=backend), n_temperatures=2).sample(
        torch.ones(3, 2), n_steps=4, generator=seeded()
    )
    assert backend.traced == 1


class Pair(NamedTuple):
    x: torch.Tensor
    y: object


def test_every_tensor_is_copied_once():
    a, b = torch.ones(2), torch.zeros(3)
    pair, rest = owned((Pair(a, [b, a]), 7), {})
    assert rest == 7
    assert isinstance(pair, Pair)
    assert isinstance(pair.y, list)
    assert pair.x is pair.y[1]
    assert torch.equal(pair.x, a)
    assert pair.x.data_ptr() != a.data_ptr()
    assert pair.y[0].data_ptr() != b.data_ptr()


def test_results_of_graphs_outlive_the_next_block(monkeypatch, seeded):
    """A graph's results lie where the last ones lay: states that were shown must not be overwritten."""
    memory, compile_as_ever = torch.empty(5, 2), torch.compile

    def reusing(function, **options):
        def call(*arguments):
            state, seen = function(*arguments)
            return type(state)(memory.copy_(state.x)), seen

        return call if "dynamic" in options else compile_as_ever(function, **options)

    monkeypatch.setattr(torch, "compile", reusing)
    x, model, shown = torch.randn(5, 2, generator=seeded()), Quartic(), []
    sampler = LangevinDynamics(model, 0.1).compile(block=2, mode="reduce-overhead")
    target = Target(model)
    with torch.no_grad():
        state = sampler.init(x, target, None)
        sampler.advance(state, 0, 6, target=target, generator=seeded(), notice=lambda n, s: shown.append(s.x))
    run = LangevinDynamics(model, 0.1).sample(x, n_steps=6, return_trajectory=True, generator=seeded())
    torch.testing.assert_close(torch.stack(shown, 1), run[:, 1::2])


@pytest.mark.parametrize("cls", [LangevinDynamics, MetropolisAdjustedLangevin, HamiltonianMonteCarlo])
def test_inductor_agrees_to_rounding(cls, seeded):
    """The compiler that is used if nobody names another; a network, so that autograd is traced."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))
    options = {"n_leapfrog_steps": 2, "path_jitter": 0.0} if cls is HamiltonianMonteCarlo else {}
    plain, compiled = (cls(network, step_size=0.1, **options) for _ in range(2))
    compiled.compile(block=2)
    x = torch.randn(6, 2, generator=seeded(1))
    got, expected = (sampler.sample(x, n_steps=2, generator=seeded()) for sampler in (compiled, plain))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_warm_up_tunes_a_compiled_sampler(backend, seeded):
    plain, compiled = (HamiltonianMonteCarlo(Quartic(), n_leapfrog_steps=2, path_jitter=0.0) for _ in range(2))
    compiled.compile(block=1, backend=backend)
    x = torch.randn(30, 2, dtype=torch.float64, generator=seeded(1))
    for sampler in (plain, compiled):
        sampler.warm_up(x, n_steps=60, generator=seeded())
    assert compiled.step_size == pytest.approx(plain.step_size, rel=1e-6)
    torch.testing.assert_close(compiled.mass, plain.mass, rtol=1e-6, atol=1e-9)


def test_what_cannot_be_traced_is_named_with_its_line(backend):
    class Printed(BaseModel):
        def forward(self, x):
            energy = 0.5 * x.square().sum(-1)
            return energy * float(energy.mean()) if energy.sum().item() > 1e9 else energy

    sampler = LangevinDynamics(Printed()).compile(backend=backend)
    with pytest.raises(
        CompilationError, match=r"LangevinDynamics on Printed cannot be compiled.*test_compiled\.py:\d+"
    ):
        sampler.sample(torch.ones(3, 2))


@pytest.fixture
def settings(monkeypatch):
    """What Inductor is told about each function."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: seen.append(options.get("options")) or function)
    return seen


def test_settings_of_closed_forms_and_of_what_is_differentiated(settings):
    for model, ours, others in (
        (HarmonicModel(), {"realize_acc_reads_threshold": 4, "max_fusion_size": 128}, set()),
        (Quartic(), {"realize_acc_reads_threshold": 2}, {"max_fusion_size"}),
    ):
        LangevinDynamics(model).compile(block=2).sample(torch.zeros(4, 2), n_steps=4)
        assert ours.items() <= settings[-1].items()
        assert not others & set(settings[-1])
    LangevinDynamics(Quartic()).compile(block=2, options={"realize_acc_reads_threshold": 7}).sample(dim=2, n_steps=4)
    assert settings[-1]["realize_acc_reads_threshold"] == 7


@pytest.mark.parametrize("model", [HarmonicModel(), Quartic()])
@pytest.mark.parametrize(
    ("n_chains", "dim", "n_data", "threads"),
    [(2048, 2, 0, 1), (2049, 2, 0, None), (64, 2, 500, 1), (64, 2, 600, None)],
)
def test_small_models_of_few_chains_have_one_thread(settings, model, n_chains, dim, n_data, threads):
    """Few numbers of all chains, and of the model for each of them, data included."""
    model.register_buffer("data", torch.zeros(2 * n_data))
    LangevinDynamics(model).compile(block=2).sample(torch.zeros(n_chains, dim), n_steps=2)
    assert settings[-1].get("cpp.threads") == threads


def test_threads_of_the_users_choice(settings):
    LangevinDynamics(HarmonicModel()).compile(block=2, options={"cpp.threads": 3}).sample(torch.zeros(9, 2), n_steps=2)
    assert settings[-1]["cpp.threads"] == 3


@pytest.mark.parametrize(("has_vectors", "set_by_the_user", "expected"), [
    (True, None, True), (True, False, None), (False, None, None),
])  # fmt: skip
def test_no_trial_of_instructions_where_compilers_have_them(
    settings, monkeypatch, has_vectors, set_by_the_user, expected
):
    monkeypatch.setattr("torchebm.core.inductor._HAS_VECTORS", has_vectors)
    with torch._inductor.config.patch({"cpp.vec_isa_ok": set_by_the_user}):
        LangevinDynamics(HarmonicModel()).compile(block=2).sample(torch.zeros(4, 2), n_steps=4)
    assert settings[-1].get("cpp.vec_isa_ok") is expected


def test_options_are_checked_before_any_run():
    sampler = LangevinDynamics(HarmonicModel())
    with pytest.raises(RuntimeError, match="Unexpected optimization option nonsense"):
        sampler.compile(options={"nonsense": True})
    with pytest.raises(ValueError, match="block must be at least 1; got 0"):
        sampler.compile(block=0)
    with pytest.raises(ValueError, match="NoUTurnSampler decides on the host"):
        NoUTurnSampler(HarmonicModel()).compile(block=2)
    with pytest.raises(TypeError, match="nonsense"):
        sampler.compile(nonsense=True)
    with pytest.raises(ValueError, match="fullgraph=False would leave parts"):
        sampler.compile(fullgraph=False)


def test_chains_that_are_lost_are_reported_by_block(backend, generator):
    sampler = LangevinDynamics(lambda x: -x.pow(4).sum(-1), step_size=1.0).compile(block=4, backend=backend)
    x = torch.tensor([[3.0], [0.0]])
    with pytest.warns(SamplingDivergenceWarning, match="diverged, the first by step 3 of this run"):
        sampler.sample(x, n_steps=12, generator=generator)


def test_chains_that_are_held_stay(backend, generator):
    model = Quartic()
    sampler = LangevinDynamics(lambda x: model(x) + x.sqrt().sum(-1) * 0, step_size=1e-3)
    x = torch.tensor([[-1.0], [1.0]])
    with pytest.warns(SamplingDivergenceWarning, match="1 of 2 chains started where"):
        end = sampler.compile(block=4, backend=backend).sample(x, n_steps=8, generator=generator)
    assert end[0] == -1
    assert end[1] != 1


def test_the_compile_time_is_shown_once(backend, capsys):
    sampler = LangevinDynamics(HarmonicModel()).compile(block=2, backend=backend)
    sampler.sample(torch.ones(3, 2), n_steps=6, progress=True)
    assert "compiled in=" in capsys.readouterr().err
    sampler.sample(torch.ones(3, 2), n_steps=6, progress=True)
    assert "compiled in=" not in capsys.readouterr().err


def test_training_uses_a_compiled_sampler_unchanged(backend, seeded):
    losses = []
    for options in ({}, {"backend": backend}):
        model = Quartic()
        sampler = LangevinDynamics(model, step_size=0.01)
        if options:
            sampler.compile(block=5, **options)
        loss, generator = ContrastiveDivergence(model, sampler, k_steps=10), seeded()
        optimiser, x, trace = torch.optim.SGD(model.parameters(), lr=0.1), torch.full((4, 2), 0.5), []
        for _ in range(3):
            optimiser.zero_grad()
            value = loss.evaluate(x, generator=generator).loss
            value.backward()
            optimiser.step()
            trace.append(value.detach())
        losses.append(torch.stack(trace))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert backend.traced == 1


def test_shapes_of_a_block(backend, seeded):
    for event in ((), (1, 2, 2)):
        x = torch.zeros(3, *event)
        sampler = MetropolisHastings(HarmonicModel()).compile(block=3, backend=backend)
        got = sampler.sample(x, n_steps=7, generator=seeded())
        torch.testing.assert_close(got, MetropolisHastings(HarmonicModel()).sample(x, n_steps=7, generator=seeded()))


@pytest.mark.parametrize(
    ("size", "n_steps", "block"),
    [(4, 10, 5), (4, 3, 3), (4, 2, 2), (4, 5, 5), (4, 7, 4), (16, 40, 20), (16, 100, 20), (16, 128, 16), (16, 127, 16),
     (16, 1000, 16), (1, 7, 1), (32, 7, 7), (2, 15, 3)],
)  # fmt: skip
def test_short_runs_leave_no_step_over_where_a_block_divides_them(size, n_steps, block):
    assert fitting(size, n_steps) == block
