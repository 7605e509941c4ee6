"""Faults that training code for energy-based models has had, each with the behaviour that is right."""

import math

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, BaseSampler, ConstantScheduler, EnergyModel, LinearScheduler, NonFiniteEnergyError
from torchebm.losses import ContrastiveDivergence, ReplayBuffer
from torchebm.samplers import LangevinDynamics

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(n=16, dim=2, seed=0, dtype=torch.float32):
    return torch.randn(n, dim, generator=seeded(seed), dtype=dtype)


def network(*more):
    return EnergyModel(nn.Sequential(nn.Linear(2, 8), nn.SiLU(), *more, nn.Linear(8, 1)))


def contrastive(model=None, step_size=0.05, **options):
    model = network() if model is None else model
    options = {"k_steps": 2, **options}
    if options.get("persistent"):
        options = {"buffer_size": 32, **options}
    return ContrastiveDivergence(model, LangevinDynamics(model, step_size), **options)


class Still(BaseSampler):
    def sample(self, x=None, **options):
        return x.clone()


# persistent chains ---------------------------------------------------------------------------------------------------


def test_chains_do_not_coalesce():
    """Chains written to other slots than they came from die out: one of 1,024 is left after 20,000 updates."""
    buffer, generator = ReplayBuffer(1024), seeded()
    buffer.chains = torch.arange(1024.0).unsqueeze(1)
    for _ in range(2000):
        buffer.write(*buffer.draw(64, torch.zeros(1, 1), generator=generator))
    assert len(buffer.chains.unique()) == 1024


def test_the_last_slots_are_drawn_where_the_batch_does_not_divide_the_buffer():
    buffer, generator = ReplayBuffer(100), seeded()
    buffer.chains = torch.zeros(100, 1)
    for _ in range(100):  # a slot is missed with probability 0.36 each: 100 * 0.36**100 is nothing
        slots, chains = buffer.draw(64, torch.zeros(1, 1), generator=generator)
        buffer.write(slots, torch.ones_like(chains))
    assert bool((buffer.chains == 1).all())


def test_a_new_sample_is_new_and_not_an_old_one_with_noise():
    model = network()
    loss_fn = ContrastiveDivergence(model, Still(model), persistent=True, buffer_size=32, new_sample_ratio=0.5)
    batch, generator = data(16), seeded()
    loss_fn(batch, generator=generator)
    loss_fn.replay_buffer.chains.fill_(100.0)
    _, negatives = loss_fn(batch, generator=generator)
    far = (negatives > 99).all(1)
    assert int(far.sum()) == 8
    assert bool((negatives[~far].abs() < 10).all())


def test_the_first_chains_fill_the_datas_box_and_not_the_origin():
    model = network()
    loss_fn = ContrastiveDivergence(model, Still(model), persistent=True, buffer_size=1000)
    batch = data(64) * 3 + 50
    _, negatives = loss_fn(batch, generator=seeded())
    assert negatives.min() > 30
    chains = loss_fn.replay_buffer.chains
    assert (chains.std(0) > batch.std(0)).all()


def test_changed_data_does_not_get_chains_of_the_old_shape():
    loss_fn = contrastive(EnergyModel(lambda x: x.square().flatten(1).sum(1)), persistent=True)
    loss_fn(data(16, 2))
    with pytest.raises(ValueError, match=r"chains of shape \[2\], the data has \[3\]"):
        loss_fn(data(16, 3))


@pytest.mark.parametrize("first", ["train", "eval"])
def test_the_buffer_stands_still_in_eval_mode(first):
    loss_fn, generator = contrastive(persistent=True), seeded()
    if first == "train":
        loss_fn(data(), generator=generator)
    before = loss_fn.replay_buffer.chains.clone()
    loss_fn.eval()
    for _ in range(3):
        loss_fn(data() + 100, generator=generator)
    assert torch.equal(loss_fn.replay_buffer.chains, before)


def test_a_fresh_instance_loads_the_state():
    model = network()
    first, second = contrastive(model, persistent=True), contrastive(model, persistent=True)
    first(data(), generator=seeded())
    second.load_state_dict(first.state_dict())
    a, b = first(data(), generator=seeded(1)), second(data(), generator=seeded(1))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


def test_the_state_holds_no_model():
    model = network()
    loss_fn = contrastive(model, persistent=True)
    loss_fn(data())
    assert set(loss_fn.state_dict()) == {"replay_buffer.chains", "replay_buffer.ages"}
    assert contrastive(model).state_dict() == {}
    assert list(loss_fn.parameters()) == []


def test_warm_up_of_the_chains_hides_no_error():
    def refuses(x):
        raise RuntimeError("the model's own words")

    with pytest.raises(RuntimeError, match="the model's own words"):
        contrastive(EnergyModel(refuses), persistent=True)(data())


def test_an_update_that_was_not_finite_leaves_the_chains():
    model = network()
    loss_fn = contrastive(model, persistent=True)
    loss_fn(data(), generator=seeded())
    before = loss_fn.replay_buffer.chains.clone()
    with torch.no_grad():
        model.network[0].weight.fill_(math.nan)
    with pytest.raises(NonFiniteEnergyError):
        loss_fn(data(), generator=seeded(1))
    assert torch.equal(loss_fn.replay_buffer.chains, before)


# numbers that are not finite ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_loss_that_is_not_finite_is_not_replaced(value, persistent):
    model = network()
    with torch.no_grad():
        model.network[2].bias.fill_(value)
    with pytest.raises(NonFiniteEnergyError, match="16 of 16 energies of data are not finite"):
        contrastive(model, persistent=persistent)(data())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.filterwarnings("ignore::torchebm.core.SamplingDivergenceWarning")
def test_chains_that_diverged_are_not_hidden():
    with pytest.raises(NonFiniteEnergyError, match="energies of negatives are not finite"):
        contrastive(EnergyModel(lambda x: x.pow(4).sum(-1)), step_size=50.0, k_steps=10)(data())


def test_energies_are_not_clamped():
    model = EnergyModel(lambda x: 1e12 * x.square().sum(-1))
    loss_fn = ContrastiveDivergence(model, Still(model), energy_reg_weight=0.0)
    output = loss_fn.evaluate(data(dtype=F64))
    assert float(output.metrics["energy_data"]) == pytest.approx(1e12 * float(data(dtype=F64).square().sum(1).mean()))


def test_an_empty_batch_has_no_loss():
    for persistent in (False, True):
        with pytest.raises(ValueError, match="at least one point"):
            contrastive(persistent=persistent)(torch.empty(0, 2))


# what is the caller's -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_batch_is_not_made_to_require_gradients(weight):
    batch = data()
    kept = batch.clone()
    loss, negatives = contrastive(energy_reg_weight=weight)(batch)
    loss.backward()
    assert not batch.requires_grad
    assert batch.grad is None
    assert torch.equal(batch, kept)
    assert negatives.untyped_storage().data_ptr() != batch.untyped_storage().data_ptr()


def test_sampling_does_not_touch_the_statistics_of_a_norm():
    """The energies of data and of negatives are the loss's own two passes; the chains run in eval mode."""
    model = network(nn.BatchNorm1d(8))
    contrastive(model, k_steps=20)(data())
    assert int(model.network[2].num_batches_tracked) == 2
    assert model.network[2].training


def test_a_model_in_eval_mode_still_gets_its_gradient():
    results = []
    for training in (True, False):
        torch.manual_seed(0)
        model = network().train(training)
        loss, _ = contrastive(model)(data(), generator=seeded())
        loss.backward()
        results.append([p.grad for p in model.parameters()])
        assert model.training is training
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_model_moved_after_its_loss_was_made():
    model = network()
    loss_fn = contrastive(model, persistent=True)
    model.double()
    loss, negatives = loss_fn(data(dtype=F64))
    assert loss.dtype == negatives.dtype == F64


def test_sampler_and_generator_of_the_user_are_left_as_they_were():
    model = network()
    sampler = LangevinDynamics(model, step_size=0.05, noise_scale=0.3)
    before = torch.get_rng_state()
    ContrastiveDivergence(model, sampler)(data(), generator=seeded())
    assert (sampler.step_size, sampler.noise_scale) == (0.05, 0.3)
    assert torch.equal(torch.get_rng_state(), before)


# schedules -----------------------------------------------------------------------------------------------------------


class Seen(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.weight * x.sum(-1)


def drops(loss_fn, n):
    """How far one noise-free chain falls in each of n updates: the sum of the step sizes used."""
    return [float((loss_fn(torch.zeros(1, 1))[1]).abs()) for _ in range(n)]


def scheduled(reset, schedule=None):
    model = Seen()
    schedule = LinearScheduler(0.4, 0.0, 4) if schedule is None else schedule
    sampler = LangevinDynamics(model, lambda step: 1e-9 + schedule.value(step), noise_scale=0.0)
    return ContrastiveDivergence(model, sampler, k_steps=2, reset_schedulers=reset)


def test_schedules_may_last_all_training():
    assert drops(scheduled(True), 3) == pytest.approx([0.7, 0.7, 0.7])
    assert drops(scheduled(False), 3) == pytest.approx([0.7, 0.3, 0.0], abs=1e-6)


def test_validation_does_not_use_up_a_schedule():
    loss_fn = scheduled(False)
    assert drops(loss_fn, 1) == pytest.approx([0.7])
    loss_fn.eval()
    assert drops(loss_fn, 2) == pytest.approx([0.3, 0.3])
    loss_fn.train()
    assert drops(loss_fn, 1) == pytest.approx([0.3])


def test_one_schedule_for_two_parameters_moves_once():
    model, schedule = Seen(), LinearScheduler(0.4, 0.1, 3)
    sampler = LangevinDynamics(model, schedule, schedule)
    loss_fn = ContrastiveDivergence(model, sampler, k_steps=2, reset_schedulers=False)
    loss_fn(torch.zeros(1, 1))
    assert schedule.step_count == 2
    assert isinstance(LangevinDynamics(model).schedulers["step_size"], ConstantScheduler)


# arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"k_steps": -5},
        {"k_steps": 0},
        {"energy_reg_weight": -1.0},
        {"energy_reg_weight": math.nan},
        {"persistent": True, "buffer_size": -1},
        {"persistent": True, "new_sample_ratio": 2.0},
        {"persistent": True, "new_sample_ratio": math.nan},
        {"new_sample_ratio": 0.05},
        {"fresh_chains": "nois", "persistent": True},
    ],
    ids=str,
)
def test_bad_arguments_are_refused_where_they_are_given(options):
    with pytest.raises(ValueError, match=r"must be|persistent"):
        contrastive(**options)


def test_options_that_do_nothing_do_not_exist():
    for name in ("decay", "hutchinson_samples", "use_mixed_precision", "clip_value"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            contrastive(**{name: 1})


def test_networks_functions_and_nonsense():
    for model in (nn.Linear(2, 1), lambda x: x.square().sum(-1)):
        loss, _ = ContrastiveDivergence(model, LangevinDynamics(model))(data())
        assert loss.isfinite()
    with pytest.raises(TypeError, match="model must be a BaseModel, a network or a function; got int"):
        ContrastiveDivergence(3, LangevinDynamics(nn.Linear(2, 1)))
