import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, HarmonicModel
from torchebm.core.specialised import unguarded
from torchebm.core.target import Target
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics, MetropolisAdjustedLangevin


class Scaled(nn.Module):
    """A number and a weight: a new value of the one is compiled anew, of the other not."""

    def __init__(self):
        super().__init__()
        self.factor, self.weight = 2.0, nn.Parameter(torch.tensor(3.0), requires_grad=False)

    def forward(self, x):
        return self.factor * self.weight * x


@pytest.fixture
def scaled():
    return Scaled()


@pytest.fixture
def compiled(scaled):
    offset = torch.tensor(1.0)

    def function(module, x):
        return module(x) + offset  # of the closure

    function.__code__ = function.__code__.replace()  # else what other tests compiled is kept with it
    return torch.compile(function, backend="eager", dynamic=False)


def test_the_same_code_without_the_questions(compiled, scaled):
    x = torch.ones(2)
    assert unguarded(compiled) is compiled  # nothing is compiled so far
    compiled(scaled, x)
    bare = unguarded(compiled)
    assert bare is not compiled
    assert bare(scaled, x).tolist() == [7.0, 7.0]
    assert bare(scaled, 2 * x).tolist() == [13.0, 13.0]
    scaled.weight.fill_(1.0)
    assert bare(scaled, x).tolist() == [3.0, 3.0]
    scaled.weight = nn.Parameter(torch.tensor(2.0), requires_grad=False)
    assert bare(scaled, x).tolist() == [5.0, 5.0]
    scaled.factor = 5.0  # which the guards would have seen
    assert bare(scaled, x).tolist() == [5.0, 5.0]
    assert compiled(scaled, x).tolist() == [11.0, 11.0]


def test_what_is_not_one_piece_of_code_keeps_its_guards(compiled, scaled):
    for n in (2, 3):
        compiled(scaled, torch.ones(n))
    assert unguarded(compiled) is compiled
    assert unguarded(scaled.forward) == scaled.forward


def test_who_asks_for_no_compiled_code_gets_none(compiled, scaled):
    compiled(scaled, torch.ones(2))
    with torch.compiler.set_stance("force_eager"):
        assert unguarded(compiled) is compiled
    assert unguarded(compiled) is not compiled


class Quartic(BaseModel):
    def forward(self, x):
        return x.pow(4).sum(-1)


@pytest.mark.parametrize("diagnostics", [False, True])
@pytest.mark.parametrize("cls", [LangevinDynamics, MetropolisAdjustedLangevin])
@pytest.mark.parametrize("model", [HarmonicModel(), Quartic()], ids=lambda model: type(model).__name__)
def test_a_run_asks_twice(cls, model, diagnostics, monkeypatch, seeded):
    """The first block meets what it is given, the second what the first returned; the others are like the second."""
    asked = []
    monkeypatch.setattr("torchebm.core.compiled.unguarded", lambda f: asked.append(f) or unguarded(f))
    sampler, plain = cls(model, step_size=0.05).compile(block=2, backend="eager"), cls(model, step_size=0.05)
    for n_steps, n_asked in ((11, 1), (11, 1), (4, 1), (2, 0)):
        asked.clear()
        got, expected = (s.sample(torch.ones(5, 2), n_steps=n_steps, return_diagnostics=diagnostics, generator=seeded())
                         for s in (sampler, plain))  # fmt: skip
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        assert len(asked) == n_asked
        assert all(unguarded(f) is not f for f in asked)


@pytest.mark.parametrize("model", [HarmonicModel(), Quartic()], ids=lambda model: type(model).__name__)
def test_energies_are_asked_for_once_for_points_of_a_kind(model, monkeypatch, seeded):
    asked = []
    monkeypatch.setattr("torchebm.core.compiled.unguarded", lambda f: asked.append(f) or unguarded(f))
    sampler, plain = (HamiltonianMonteCarlo(model, step_size=0.1, path_jitter=0.5) for _ in range(2))
    sampler.compile(backend="eager")
    for n_chains in (5, 5, 4):
        asked.clear()
        got, expected = (s.sample(torch.ones(n_chains, 2), n_steps=6, generator=seeded()) for s in (sampler, plain))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert len(asked) == 1
    target = sampler.compiled.wrap(Target(model))
    points = torch.arange(1.0, 10.0).reshape(3, 3)
    for x in (points, points.T, points.double(), points[:2], points):
        for _ in range(2):
            torch.testing.assert_close(target.evaluate(x), Target(model).evaluate(x), check_dtype=True)
    assert len(asked) == 5


def no_blocks(model):
    return HamiltonianMonteCarlo(model, step_size=0.05, path_jitter=0.5)


@pytest.mark.parametrize("make", [LangevinDynamics, no_blocks])
def test_a_run_asks_whether_the_last_one_s_answers_still_hold(make, seeded):
    model = HarmonicModel()
    sampler, plain = make(model), make(model)
    sampler.compile(backend="eager", **({} if sampler.steps_per_block is None else {"block": 2}))
    for k in (1.0, 2.0, 3.0, 1.0):
        model.k = k
        got, expected = (s.sample(torch.ones(5, 2), n_steps=12, generator=seeded()) for s in (sampler, plain))
        torch.testing.assert_close(got, expected)
