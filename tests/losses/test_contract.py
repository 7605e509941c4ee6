"""What every loss promises, run for every exported loss: a new one adds a line to `LOSSES`, or this file fails."""

import copy

import pytest
import torch
from torch import nn

import torchebm.losses
from torchebm.core import BaseLoss, EnergyModel, LossOutput, NonFiniteEnergyError
from torchebm.losses import (
    ContrastiveDivergence,
    ImprovedContrastiveDivergence,
    JointContrastiveDivergence,
    NoiseLevels,
    RecoveryLikelihood,
)
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics, MetropolisHastings

N = 8


def langevin(model):
    return LangevinDynamics(model, step_size=0.05)


# by class, then by variant: model -> loss. What it draws with comes from the model's own dtype and device.
LOSSES = {
    ContrastiveDivergence: {
        "from data": lambda model: ContrastiveDivergence(model, langevin(model), k_steps=2),
        "persistent": lambda model: ContrastiveDivergence(
            model, langevin(model), k_steps=2, persistent=True, buffer_size=20, new_sample_ratio=0.25
        ),
        "persistent, gaussian start": lambda model: ContrastiveDivergence(
            model, langevin(model), k_steps=2, persistent=True, buffer_size=N, fresh_chains="gaussian"
        ),
        "persistent, HMC": lambda model: ContrastiveDivergence(
            model, HamiltonianMonteCarlo(model, 0.1, 3), k_steps=2, persistent=True, buffer_size=11, fresh_chains="data"
        ),
        "Metropolis, noisy data": lambda model: ContrastiveDivergence(
            model, MetropolisHastings(model, 0.5), k_steps=3, energy_reg_weight=0.0, data_noise=0.1
        ),
        "schedules that run on": lambda model: ContrastiveDivergence(
            model, LangevinDynamics(model, lambda step: 0.1 / (1 + step)), k_steps=2, reset_schedulers=False
        ),
    },
    JointContrastiveDivergence: {
        "points alone": lambda model: JointContrastiveDivergence(
            model, langevin(model), k_steps=2, persistent=True, buffer_size=20
        ),
    },
    ImprovedContrastiveDivergence: {
        "from data": lambda model: ImprovedContrastiveDivergence(model, langevin(model), k_steps=1),
        "persistent": lambda model: ImprovedContrastiveDivergence(
            model, langevin(model), k_steps=3, persistent=True, buffer_size=20, n_neighbours=5
        ),
        "schedules that run on": lambda model: ImprovedContrastiveDivergence(
            model, LangevinDynamics(model, lambda step: 0.1 / (1 + step)), k_steps=2, reset_schedulers=False
        ),
    },
    RecoveryLikelihood: {
        "one energy for all levels": lambda model: RecoveryLikelihood(
            model, langevin(model), NoiseLevels.linear(3), k_steps=2, conditional=False
        ),
    },
}
VARIANTS = [(kind, name) for kind, variants in LOSSES.items() for name in variants]
every_loss = pytest.mark.parametrize(
    "build",
    [LOSSES[kind][name] for kind, name in VARIANTS],
    ids=[f"{kind.__name__}: {name}" for kind, name in VARIANTS],
)


def state(loss_fn):
    """All that an evaluation could have changed: buffers, the counters of schedules, the model, its gradients."""
    counts = {name: s.step_count for name, s in loss_fn.sampler.schedulers.items()} if loss_fn.sampler else {}
    return {
        "loss": {name: t.clone() for name, t in loss_fn.state_dict().items()},
        "model": {name: t.clone() for name, t in loss_fn.model.state_dict().items()},
        "modes": [m.training for m in loss_fn.model.modules()],
        "trainable": [p.requires_grad for p in loss_fn.model.parameters()],
        "counts": counts if not getattr(loss_fn, "reset_schedulers", True) else {},
    }


def equal(a, b):
    tensors = [name for name in ("loss", "model") if a[name].keys() != b[name].keys()]
    tensors += [
        f"{g}.{k}" for g in ("loss", "model") if g not in tensors for k in a[g] if not torch.equal(a[g][k], b[g][k])
    ]
    return not tensors and all(a[name] == b[name] for name in ("modes", "trainable", "counts"))


def test_the_table_is_complete():
    exported = {getattr(torchebm.losses, name) for name in torchebm.losses.__all__}
    classes = {c for c in exported if isinstance(c, type) and issubclass(c, BaseLoss) and c is not BaseLoss}
    assert classes == set(LOSSES)


@every_loss
def test_output(build, bowl, points, event, dtype, seeded):
    model = bowl(event, dtype)
    loss_fn, batch = build(model), points(N, event, dtype=dtype)
    output = loss_fn.evaluate(batch, generator=seeded())
    assert isinstance(output, LossOutput)
    assert isinstance(loss_fn, BaseLoss)
    assert output.loss.shape == ()
    assert output.loss.dtype == dtype
    assert output.loss.isfinite()
    for name, figure in output.metrics.items():
        assert isinstance(name, str)
        assert figure.shape == (), name
        assert figure.isfinite(), name
        assert not figure.requires_grad, name
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    if output.negatives is not None:
        assert output.negatives.shape == batch.shape
        assert output.negatives.dtype == dtype
        assert not output.negatives.requires_grad
        assert output.negatives.grad_fn is None
        assert output.negatives.isfinite().all()


@every_loss
def test_calling_unpacks(build, bowl, points, seeded):
    model, batch = bowl(), points(N)
    output = build(model).evaluate(batch, generator=seeded())
    called = build(model)(batch, generator=seeded())
    if output.negatives is None:
        assert torch.equal(called, output.loss)
    else:
        assert isinstance(called, tuple)
        assert len(called) == 2
        assert torch.equal(called[0], output.loss)
        assert torch.equal(called[1], output.negatives)
        assert called[0].requires_grad


@every_loss
def test_same_generator_same_bits(build, bowl, points, event, dtype, seeded):
    batch = points(N, event, dtype=dtype)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    losses = []
    for _ in range(2):
        loss_fn, generator = build(bowl(event, dtype)), seeded()
        losses.append([loss_fn(batch, generator=generator) for _ in range(3)])
    assert torch.equal(torch.get_rng_state(), before), "the global stream was advanced"
    for first, second in zip(*losses, strict=True):
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (first, second)), strict=True):
            assert torch.equal(a, b)
    torch.manual_seed(2)  # and the global stream is not read either
    loss_fn, generator = build(bowl(event, dtype)), seeded()
    again = [loss_fn(batch, generator=generator) for _ in range(3)]
    assert all(torch.equal(a[0] if isinstance(a, tuple) else a, b[0] if isinstance(b, tuple) else b)
               for a, b in zip(losses[0], again, strict=True))  # fmt: skip


@every_loss
def test_without_a_generator_the_default_stream_is_used(build, bowl, points):
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(build(bowl()).evaluate(points(N)).loss)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@every_loss
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_batch_is_left_as_it_was(build, bowl, points, event, seeded, requires_grad):
    batch = points(N, event).requires_grad_(requires_grad)
    kept, version = batch.detach().clone(), batch._version
    called = build(bowl(event))(batch, generator=seeded())
    (called[0] if isinstance(called, tuple) else called).backward()
    assert torch.equal(batch.detach(), kept)
    assert batch._version == version
    assert batch.requires_grad is requires_grad
    assert batch.grad is None


@every_loss
def test_nothing_is_registered_twice(build, bowl):
    model = bowl()
    loss_fn = build(model)
    assert loss_fn.model is model
    own = [id(t) for t in (*model.parameters(), *model.buffers())]
    assert not any(id(t) in own for t in (*loss_fn.parameters(), *loss_fn.buffers()))
    assert not any(m is model for m in loss_fn.modules())
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    assert not any(key.endswith(name) for key in loss_fn.state_dict() for name in names)


@every_loss
def test_a_fresh_instance_goes_on_where_a_saved_one_stopped(build, bowl, points, event, dtype, seeded):
    model, batches = bowl(event, dtype), [points(N, event, seed, dtype) for seed in range(4)]
    first = build(model)
    for batch in batches[:2]:
        first(batch, generator=seeded(3))
    second = build(model)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    if first.sampler is not None:
        for name, scheduler in first.sampler.schedulers.items():
            second.sampler.schedulers[name].load_state_dict(scheduler.state_dict())
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
        assert second.state_dict()[name].dtype == tensor.dtype, name
    for batch in batches[2:]:
        a, b = first(batch, generator=seeded(4)), second(batch, generator=seeded(4))
        assert torch.equal(a[0] if isinstance(a, tuple) else a, b[0] if isinstance(b, tuple) else b)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


@every_loss
def test_the_state_of_a_new_instance_loads(build, bowl, points, seeded):
    used = build(bowl())
    used(points(N), generator=seeded())
    used.load_state_dict(build(bowl()).state_dict())
    used(points(N), generator=seeded())


@every_loss
def test_evaluating_changes_nothing_until_commit(build, bowl, points, seeded):
    loss_fn, batch = build(bowl()), points(N)
    untouched = state(loss_fn)
    outputs = [loss_fn.evaluate(batch, generator=seeded()) for _ in range(2)]
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    assert equal(state(loss_fn), untouched), "a first evaluation left something behind"
    loss_fn.commit()
    committed = state(loss_fn)
    if untouched["loss"] or untouched["counts"]:
        assert not equal(committed, untouched), "commit wrote nothing"
    loss_fn.commit()
    assert equal(state(loss_fn), committed), "a second commit wrote again"
    for _ in range(2):
        loss_fn.evaluate(batch, generator=seeded(1))
        assert equal(state(loss_fn), committed)


@every_loss
def test_eval_mode_changes_nothing(build, bowl, points, seeded):
    loss_fn, generator = build(bowl()), seeded()
    loss_fn.eval()
    untouched = state(loss_fn)
    first = loss_fn(points(N), generator=generator)
    assert equal(state(loss_fn), untouched)
    loss_fn.train()
    loss_fn(points(N), generator=generator)
    trained = state(loss_fn)
    loss_fn.eval()
    second = loss_fn(points(N), generator=generator)
    assert equal(state(loss_fn), trained)
    assert isinstance(first, tuple) == isinstance(second, tuple)


@every_loss
def test_commit_without_evaluate_does_nothing(build, bowl, points, seeded):
    loss_fn = build(bowl())
    untouched = state(loss_fn)
    loss_fn.commit()
    assert equal(state(loss_fn), untouched)


@every_loss
@pytest.mark.parametrize(
    ("batch", "error", "says"),
    [
        (torch.empty(0, 3), ValueError, r"at least one point; got shape \[0, 3\]"),
        (torch.tensor(1.0), ValueError, r"at least one point; got shape \[\]"),
        ([], TypeError, "must be a tensor .* got list"),
        ([[0.0, 1.0, 2.0]], TypeError, "must be a tensor .* got list"),
        (None, TypeError, "must be a tensor .* got NoneType"),
    ],
    ids=["empty", "no axis", "empty list", "list", "None"],
)
def test_what_is_no_batch_is_refused(build, bowl, batch, error, says):
    loss_fn = build(bowl())
    with pytest.raises(error, match=says):
        loss_fn(batch)
    with pytest.raises(error, match=says):
        loss_fn.evaluate(batch)


class Broken(EnergyModel):
    """`inner`, but with `value` for the energies of the first `n` points of a batch, or of all."""

    def __init__(self, inner, value, n=None):
        super().__init__(inner)
        self.value, self.n, self.broken = value, n, True

    def forward(self, x):
        energy = super().forward(x)
        bad = torch.arange(len(x)) < (len(x) if self.n is None else self.n)
        return torch.where(bad, torch.full_like(energy, self.value), energy) if self.broken else energy


@every_loss
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("n", [None, 3], ids=["all", "three"])
@pytest.mark.filterwarnings("ignore::torchebm.core.SamplingDivergenceWarning")
def test_energies_that_are_not_finite_raise_with_the_numbers(build, bowl, points, seeded, value, n):
    model = Broken(bowl(), value, n)
    loss_fn, batch, generator = build(model), points(N), seeded()
    model.broken = False
    loss_fn(batch, generator=generator)
    before = state(loss_fn)
    model.broken = True
    with pytest.raises(
        NonFiniteEnergyError, match=rf"{N if n is None else n} of {N} energies of data are not finite"
    ) as caught:
        loss_fn(batch, generator=generator)
    assert ("no other" if n is None else "the others from ") in str(caught.value)
    assert "learning rate" in str(caught.value)
    assert equal(state(loss_fn), before)
    loss_fn.commit()  # a caller who goes on regardless still writes nothing
    assert equal(state(loss_fn), before)
    model.broken = False
    result = loss_fn(batch, generator=generator)
    assert (result[0] if isinstance(result, tuple) else result).isfinite()


@every_loss
def test_large_energies_are_no_error(build, bowl, points, seeded):
    model = EnergyModel(lambda x: 3e38 - 0 * x.square().sum(-1))  # each is finite in float32, their sum is not
    loss_fn = build(model)
    if loss_fn.sampler is None or not hasattr(loss_fn, "energy_reg_weight"):
        pytest.skip("the mean of these energies is all that this test is about")
    try:
        loss_fn.evaluate(points(N), generator=seeded())
    except NonFiniteEnergyError as error:
        pytest.fail(f"finite energies were taken for infinite ones: {error}")


def layered():
    return EnergyModel(nn.Sequential(nn.Linear(3, 6), nn.SiLU(), nn.BatchNorm1d(6), nn.Dropout(0.0), nn.Linear(6, 1)))


@every_loss
@pytest.mark.parametrize("fails", [False, True])
def test_modes_and_frozen_parameters_of_the_model_are_restored(build, points, seeded, fails):
    model = layered()
    model.network[2].eval()
    model.network[0].weight.requires_grad_(False)
    loss_fn = build(model)
    before = state(loss_fn)
    if fails:
        with pytest.raises((NonFiniteEnergyError, ValueError)):
            loss_fn(points(N) * float("nan"), generator=seeded())
    else:
        called = loss_fn(points(N), generator=seeded())
        (called[0] if isinstance(called, tuple) else called).backward()
        assert model.network[0].weight.grad is None
    after = state(loss_fn)
    assert after["modes"] == before["modes"]
    assert after["trainable"] == before["trainable"]


@every_loss
def test_the_loss_has_a_gradient_in_eval_mode_too(build, bowl, points, seeded):
    model = bowl().eval()
    loss_fn = build(model).eval()
    output = loss_fn.evaluate(points(N), generator=seeded())
    trained = build(bowl()).evaluate(points(N), generator=seeded())
    assert torch.equal(output.loss, trained.loss)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@every_loss
def test_validation_without_gradients(build, bowl, points, seeded):
    with torch.no_grad():
        output = build(bowl()).eval().evaluate(points(N), generator=seeded())
    assert not output.loss.requires_grad
    assert torch.equal(output.loss, build(bowl()).evaluate(points(N), generator=seeded()).loss.detach())


@every_loss
def test_networks_and_functions_are_wrapped(build, points, seeded):
    loss_fn = build(nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)))
    assert isinstance(loss_fn.model, EnergyModel)
    assert loss_fn.evaluate(points(N), generator=seeded()).loss.isfinite()
    with pytest.raises(TypeError, match="model must be"):
        build(3)


def test_a_loss_must_say_how_it_evaluates(bowl):
    with pytest.raises(TypeError, match="abstract"):
        BaseLoss(bowl())


def test_a_loss_without_negatives_returns_the_scalar(bowl, points):
    class Mean(BaseLoss):
        def evaluate(self, batch, *, generator=None):
            self.check_batch(batch)
            return LossOutput(self.model(batch).mean(), {})

    loss = Mean(bowl())(points(N))
    assert loss.shape == ()
    assert loss.requires_grad
    assert Mean(bowl()).sampler is None
