"""What a warm-up found is saved and loaded, and a loaded sampler is the kernel that was saved."""

import json
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchebm.core import HarmonicModel
from torchebm.samplers import (
    BarkerProposal,
    ChEESHamiltonianMonteCarlo,
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    MicrocanonicalLangevin,
    NoUTurnSampler,
    UnderdampedLangevin,
)

F64 = torch.float64


@pytest.fixture(params=[HamiltonianMonteCarlo, ChEESHamiltonianMonteCarlo], ids=lambda cls: cls.__name__)
def hamiltonian(request):
    """`hamiltonian(model, **options)`, with paths that cannot be periods."""
    cls = request.param
    usual = {"jitter": 0.3} if cls is HamiltonianMonteCarlo else {}
    return lambda model, **options: cls(model, **(usual | options))


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_what_was_found_is_saved_and_loaded(hamiltonian, kind, tmp_path, seeded):
    model = HarmonicModel(dim=2)
    sampler = hamiltonian(model, adapt_mass=kind)
    state = sampler.warm_up(n_samples=8, n_steps=60, generator=seeded())
    saved = sampler.state_dict()
    save_file({"mass": saved.pop("mass")}, tmp_path / "mass.safetensors")
    (tmp_path / "rest.json").write_text(json.dumps(saved))
    other = hamiltonian(model)
    other.load_state_dict(json.loads((tmp_path / "rest.json").read_text()) | load_file(tmp_path / "mass.safetensors"))
    assert other.tuning == sampler.tuning
    runs = [s.sample(state=state, n_steps=5, generator=seeded(1)) for s in (sampler, other)]
    assert torch.equal(*runs)


def test_the_state_of_another_kind_of_sampler_is_refused(case):
    sampler = case.make(HarmonicModel())
    sampler.load_state_dict(sampler.state_dict())
    state = sampler.state_dict()
    for wrong in (state | {"parameters": {"warmth": 1.0}}, state | {"sampler": "Thermometer"}, {},
                  state | {"settings": {}}, {n: v for n, v in state.items() if n != "tuning"},
                  state | {"warmth": 1.0}):  # fmt: skip
        with pytest.raises(ValueError, match="another kind of sampler"):
            sampler.load_state_dict(wrong)
    assert sampler.state_dict() == state


KINDS = (HamiltonianMonteCarlo, NoUTurnSampler, ChEESHamiltonianMonteCarlo, MetropolisAdjustedLangevin, BarkerProposal,
         LangevinDynamics, MetropolisHastings, UnderdampedLangevin, MicrocanonicalLangevin)  # fmt: skip


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_each_kind_loads_its_own_states_alone(one, other):
    state, sampler = one(HarmonicModel()).state_dict(), other(HarmonicModel())
    refused = nullcontext() if one is other else pytest.raises(ValueError, match="another kind of sampler")
    with refused:
        sampler.load_state_dict(state)


SETTINGS = [
    (HamiltonianMonteCarlo, {"n_leapfrog_steps": 3, "jitter": 0.2, "path_jitter": 0.1, "momentum_refresh": 0.5,
                             "target_acceptance": 0.7, "adapt_mass": "dense"}),
    (NoUTurnSampler, {"max_tree_depth": 3, "target_acceptance": None, "adapt_mass": None}),
    (ChEESHamiltonianMonteCarlo, {"max_leapfrog_steps": 3, "target_acceptance": 0.7, "adapt_mass": None}),
    (MicrocanonicalLangevin, {"max_leapfrog_steps": 3, "desired_energy_var": 1e-3, "adapt_mass": None}),
    (UnderdampedLangevin, {"metropolised": True, "target_acceptance": 0.7}),
    (BarkerProposal, {"target_acceptance": 0.7}),
    (LangevinDynamics, {"gradient_clip": 2.0}),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "given"), SETTINGS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_loaded_sampler_is_the_kernel_that_was_saved(cls, given, seeded):
    sampler = cls(HarmonicModel(), **given)
    other = cls(HarmonicModel(), **{name: value for name, value in given.items() if name == "metropolised"})
    state = json.loads(json.dumps(sampler.state_dict()))
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert {name: getattr(other, name) for name in given} == given
    x = torch.ones(4, 2)
    assert torch.equal(*(s.sample(x, n_steps=6, generator=seeded()) for s in (sampler, other)))
    if cls not in (LangevinDynamics, BarkerProposal):
        with pytest.raises((ValueError, TypeError)):
            other.load_state_dict(state | {"settings": state["settings"] | {next(iter(given)): -1}})


def test_a_parameter_on_a_schedule_is_not_saved_and_not_replaced():
    scheduled, constant = (HamiltonianMonteCarlo(HarmonicModel(), step) for step in (lambda k: 0.3, 0.2))
    other = HamiltonianMonteCarlo(HarmonicModel(), lambda k: 0.4)
    other.load_state_dict(scheduled.state_dict())
    assert other.step_size == 0.4
    with pytest.raises(ValueError, match="no step_size"):
        constant.load_state_dict(scheduled.state_dict())
    other.load_state_dict(constant.state_dict())
    assert other.step_size == 0.2
