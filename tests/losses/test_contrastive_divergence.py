"""Contrastive divergence: its gradient by an independent formula, its chains, its options, and what it recovers."""

import math

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, EnergyModel, FunctionScheduler, NonFiniteEnergyError
from torchebm.core.energies import check_energies
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

F64 = torch.float64


class Linear(BaseModel):
    """E(x) = theta . phi(x): the gradient with respect to theta is phi(x), by hand."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.3, -0.2, 0.5, 0.7], dtype=F64))

    @staticmethod
    def phi(x):
        return torch.stack([x[:, 0], x[:, 1], x[:, 0].square(), x[:, 1].square()], 1)

    def forward(self, x):
        return self.phi(x) @ self.theta


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.001, 0.7])
def test_gradient_by_hand(points, seeded, persistent, weight):
    model, batch = Linear(), points(32, (2,), dtype=F64)
    loss_fn = ContrastiveDivergence(
        model, LangevinDynamics(model, 0.05), k_steps=3, persistent=persistent, buffer_size=50, energy_reg_weight=weight
    )
    loss, negatives = loss_fn(batch, generator=seeded())
    loss.backward()
    data, other = Linear.phi(batch), Linear.phi(negatives)  # each [32, 4]
    theta = model.theta.detach()
    e_data, e_other = data @ theta, other @ theta
    expected = data.mean(0) - other.mean(0)
    expected += weight * ((e_data[:, None] * data).mean(0) + (e_other[:, None] * other).mean(0))
    torch.testing.assert_close(model.theta.grad, expected, rtol=1e-10, atol=1e-12)
    value = e_data.mean() - e_other.mean() + weight * (e_data.square().mean() + e_other.square().mean()) / 2
    torch.testing.assert_close(loss.detach(), value, rtol=1e-10, atol=1e-12)


def test_gradient_of_a_network(points, seeded):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    model, batch, weight = EnergyModel(network), points(16, (2,), dtype=F64), 0.01
    loss_fn = ContrastiveDivergence(model, LangevinDynamics(model, 0.1), k_steps=4, energy_reg_weight=weight)
    loss, negatives = loss_fn(batch, generator=seeded())
    loss.backward()
    expected = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for points_, sign in ((batch, 1.0), (negatives, -1.0)):  # one point at a time
        for x in points_:
            energy = network(x)[0]
            gradients = torch.autograd.grad(energy, list(network.parameters()))
            for name, gradient in zip(expected, gradients, strict=True):
                expected[name] += (sign + weight * energy.detach()) * gradient / len(points_)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-12)


def test_metrics_are_what_they_are_called(bowl, still, points):
    model, batch = bowl((3,), F64), points(16, dtype=F64)
    output = ContrastiveDivergence(model, still(model, lambda x: x + 2.0)).evaluate(batch)
    torch.testing.assert_close(output.metrics["energy_data"], model(batch).mean().detach())
    torch.testing.assert_close(output.metrics["energy_negative"], model(batch + 2).mean().detach())
    torch.testing.assert_close(output.metrics["energy_gap"], (model(batch + 2).mean() - model(batch).mean()).detach())
    torch.testing.assert_close(output.metrics["displacement"], torch.tensor(2.0, dtype=F64))


def test_acceptance_is_reported_where_there_is_one(bowl, points, seeded):
    model = bowl()
    exact = ContrastiveDivergence(model, HamiltonianMonteCarlo(model, 1e-3, 2), k_steps=2)
    assert exact.evaluate(points(8), generator=seeded()).metrics["acceptance_rate"] > 0.99
    unadjusted = ContrastiveDivergence(model, LangevinDynamics(model, 1e-3), k_steps=2)
    assert "acceptance_rate" not in unadjusted.evaluate(points(8), generator=seeded()).metrics


def test_energy_gap_closes_where_model_and_data_agree(bowl, points, seeded):
    """Exact data and exact chains: the gradient is noise about 0, within 5 standard errors (failure below 1e-5)."""
    model, n = bowl((1,), F64), 20_000
    data = model.mean.detach() + points(n, (1,), dtype=F64) * (-0.5 * model.log_precision.detach()).exp()
    loss_fn = ContrastiveDivergence(model, HamiltonianMonteCarlo(model, 0.4, 4), k_steps=2, energy_reg_weight=0.0)
    loss_fn.evaluate(data, generator=seeded()).loss.backward()
    k = float(model.log_precision.detach().exp())
    assert abs(float(model.mean.grad)) < 5 * math.sqrt(2 * k / n)  # dE/dm has variance k
    assert abs(float(model.log_precision.grad)) < 5 * math.sqrt(2 * 0.5 / n)  # dE/dlog k has variance 1/2


# where the chains start ----------------------------------------------------------------------------------------------


def test_chains_start_at_the_batch(bowl, still, points):
    model, batch = bowl(), points(8)
    sampler = still(model)
    loss_fn = ContrastiveDivergence(model, sampler, k_steps=7)
    _, negatives = loss_fn(batch)
    assert torch.equal(sampler.calls[0]["x"], batch)
    assert sampler.calls[0]["n_steps"] == 7
    assert torch.equal(negatives, batch)
    assert negatives is not batch


def test_persistent_chains_start_uniform_in_the_first_box_widened_by_half(bowl, still, points, seeded):
    model = bowl((2,))
    data = points(256, (2,)) * torch.tensor([1.0, 20.0]) + torch.tensor([5.0, -100.0])
    sampler = still(model)
    loss_fn = ContrastiveDivergence(model, sampler, persistent=True, buffer_size=20_000)
    loss_fn(data, generator=seeded())
    loss_fn(data + 1000, generator=seeded())
    chains, low, high = loss_fn.replay_buffer.chains, data.amin(0), data.amax(0)
    width = high - low
    assert (chains >= low - width / 4).all()
    assert (chains <= high + width / 4).all()
    fraction = (chains - (low - width / 4)) / (1.5 * width)
    assert (fraction.amin(0) < 0.001).all()  # each bound is approached: failure below 2e-8 for 20,000 draws
    assert (fraction.amax(0) > 0.999).all()
    assert ((fraction.mean(0) - 0.5).abs() < 5 / math.sqrt(12 * 20_000)).all()
    assert not torch.equal(sampler.calls[0]["x"], data)


def test_persistent_chains_go_on_where_they_stopped(bowl, still, points, seeded):
    model, batch, generator = bowl(), points(8), seeded()
    sampler = still(model, lambda x: x + 1)
    loss_fn = ContrastiveDivergence(model, sampler, persistent=True, buffer_size=8)
    _, first = loss_fn(batch, generator=generator)
    for n in range(1, 5):
        _, negatives = loss_fn(batch, generator=generator)
        assert torch.allclose(negatives.sort(0).values, first.sort(0).values + n)


def test_the_global_level_is_held_by_the_regulariser(bowl, still, points):
    model = EnergyModel(bowl())
    shift = nn.Parameter(torch.tensor(3.0))
    lifted = EnergyModel(lambda x: model(x) + shift)
    for weight in (0.0, 0.5):
        shift.grad = None
        loss, _ = ContrastiveDivergence(lifted, still(lifted), energy_reg_weight=weight)(points(64))
        loss.backward()
        expected = weight * 2 * float(lifted(points(64)).mean().detach())
        assert float(shift.grad) == pytest.approx(expected, abs=1e-5)


def test_no_regulariser_means_no_squares(still, points):
    model = EnergyModel(lambda x: 1e30 + x.sum(-1))  # finite; its square is not
    loss, _ = ContrastiveDivergence(model, still(model), energy_reg_weight=0.0)(points(4))
    assert loss.isfinite()


def test_data_noise(bowl, still, points, seeded):
    model, data = bowl((2,), F64), torch.zeros(20_000, 2, dtype=F64)
    sampler = still(model)
    scale = torch.tensor([0.1, 3.0], dtype=F64)
    ContrastiveDivergence(model, sampler, data_noise=scale)(data, generator=seeded())
    seen = sampler.calls[0]["x"]
    assert ((seen.std(0) / scale - 1).abs() < 5 / math.sqrt(2 * 20_000)).all()
    assert not data.any()
    ContrastiveDivergence(model, sampler)(data, generator=seeded())
    assert torch.equal(sampler.calls[1]["x"], data)


# samplers and their schedules ----------------------------------------------------------------------------------------


def used_step_sizes(reset):
    steps = []

    def schedule(step):
        return 0.01 / (1 + step)

    model = EnergyModel(lambda x: x.square().sum(-1))

    class Recording(LangevinDynamics):
        def step(self, state, noise, target, **parameters):
            steps.append(round(0.01 / parameters["step_size"]) - 1)
            return super().step(state, noise, target, **parameters)

    return model, Recording(model, FunctionScheduler(schedule)), steps


def test_schedules_begin_anew_or_run_on(points):
    for reset, expected in ((True, [0, 1, 2] * 3), (False, list(range(9)))):
        model, sampler, steps = used_step_sizes(reset)
        loss_fn = ContrastiveDivergence(model, sampler, k_steps=3, reset_schedulers=reset)
        for _ in range(3):
            loss_fn(points(4))
        assert steps == expected


def test_schedules_that_run_on_stand_still_in_eval_mode_and_without_commit(points):
    model, sampler, steps = used_step_sizes(False)
    loss_fn = ContrastiveDivergence(model, sampler, k_steps=2, reset_schedulers=False)
    loss_fn(points(4))
    loss_fn.eval()
    loss_fn(points(4))
    loss_fn.train()
    loss_fn.evaluate(points(4))
    loss_fn.evaluate(points(4))
    loss_fn.commit()
    loss_fn(points(4))
    assert steps == [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]


def test_a_sampler_of_ones_own_is_asked_by_sample(bowl, points):
    class Mine(LangevinDynamics):
        def sample(self, x=None, **options):
            return x + 1

    model, batch = bowl(), points(4)
    _, negatives = ContrastiveDivergence(model, Mine(model))(batch)
    assert torch.equal(negatives, batch + 1)


def test_a_sampler_may_work_in_its_own_dtype_only_if_the_model_does(bowl, points):
    model = bowl()
    sampler = LangevinDynamics(model, 0.1, dtype=F64)
    _, negatives = ContrastiveDivergence(model, sampler)(points(4))
    assert negatives.dtype == F64  # a Gaussian follows its input


# arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"k_steps": 0}, ValueError, "k_steps must be at least 1; got 0"),
        ({"k_steps": -5}, ValueError, "k_steps must be at least 1; got -5"),
        ({"k_steps": 2.0}, TypeError, "k_steps must be a whole number"),
        ({"k_steps": True}, TypeError, "k_steps must be a whole number"),
        ({"persistent": True, "buffer_size": 0}, ValueError, "size must be at least 1"),
        ({"persistent": True, "new_sample_ratio": 1.5}, ValueError, "new_sample_ratio must be at most 1; got 1.5"),
        ({"persistent": True, "new_sample_ratio": -0.1}, ValueError, "new_sample_ratio must be at least 0"),
        ({"new_sample_ratio": 0.1}, ValueError, "give persistent=True"),
        ({"energy_reg_weight": float("nan")}, ValueError, "energy_reg_weight must be finite"),
        ({"energy_reg_weight": -1}, ValueError, "energy_reg_weight must be at least 0"),
        ({"data_noise": -1}, ValueError, "data_noise must be at least 0"),
        ({"persistent": True, "fresh_chains": "normal"}, ValueError, "'uniform', 'gaussian', 'data'; got 'normal'"),
    ],
)
def test_arguments_are_checked(bowl, options, error, says):
    model = bowl()
    with pytest.raises(error, match=says):
        ContrastiveDivergence(model, LangevinDynamics(model), **options)


def test_the_sampler_must_be_one(bowl):
    with pytest.raises(TypeError, match=r"sampler must be a BaseSampler, such as LangevinDynamics\(model\); got Bowl"):
        ContrastiveDivergence(bowl(), bowl())


def test_a_batch_of_another_shape_raises(points):
    model = EnergyModel(lambda x: x.flatten(1).sum(1))
    loss_fn = ContrastiveDivergence(model, LangevinDynamics(model), persistent=True, buffer_size=16)
    loss_fn(points(8, (3,)))
    with pytest.raises(ValueError, match=r"chains of shape \[3\], the data has \[2, 3\]"):
        loss_fn(points(8, (2, 3)))
    with pytest.raises(ValueError, match="20 chains asked of a buffer of 16: raise buffer_size"):
        loss_fn(points(20, (3,)))


def test_the_samplers_own_refusals_reach_the_user(bowl, points):
    model = bowl((3,))
    model.event_shape = torch.Size([3])
    with pytest.raises(ValueError, match=r"event shape is \[4\]; expected \[3\]"):
        ContrastiveDivergence(model, LangevinDynamics(model))(points(8, (4,)))


def test_check_energies():
    check_energies(a=torch.zeros(3), b=torch.full((70_000,), 3e38), c=torch.full((1000,), 6e4, dtype=torch.float16))
    with pytest.raises(NonFiniteEnergyError) as error:
        check_energies(data=torch.tensor([1.0, 2.5, math.nan]), negatives=torch.tensor([math.inf, -math.inf]))
    assert "1 of 3 energies of data are not finite (the others from 1 to 2.5)" in str(error.value)
    assert "2 of 2 energies of negatives are not finite (no other)" in str(error.value)
    assert isinstance(error.value, ArithmeticError)


# recovery ------------------------------------------------------------------------------------------------------------


class Gaussian(BaseModel):
    """E(x) = |L^T (x - m)|^2 / 2 with L lower triangular: mean m and precision L L^T, all free."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2, dtype=F64))
        self.factor = nn.Parameter(torch.eye(2, dtype=F64))

    def forward(self, x):
        return 0.5 * ((x - self.mean) @ self.factor.tril()).square().sum(1)

    @property
    def estimates(self):
        factor = self.factor.detach().tril()
        return torch.cat([self.mean.detach(), (factor @ factor.T)[[0, 0, 1], [0, 1, 1]]])


def test_recovers_mean_and_precision(seeded):
    """Persistent chains and HMC find the maximum-likelihood estimate, so the truth within 5 of its standard errors.

    What is left to the optimiser and the chains is about 0.05 standard errors, and bounded by a third of one. Each of
    the five estimates fails with probability below 6e-7, the test below 1e-5.
    """
    n, generator = 2000, seeded(7)
    mean = torch.tensor([2.0, -1.0], dtype=F64)
    precision = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=F64)
    scale = torch.linalg.cholesky(torch.linalg.inv(precision))
    data = mean + torch.randn(n, 2, generator=generator, dtype=F64) @ scale.T
    model = Gaussian()
    loss_fn = ContrastiveDivergence(model, HamiltonianMonteCarlo(model, 0.35, 4), k_steps=1, persistent=True,
                                    buffer_size=n, energy_reg_weight=0.0)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    averaged, n_averaged = torch.zeros(5, dtype=F64), 0
    for step in range(1200):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 if step < 300 else 0.005
        loss, _ = loss_fn(data, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 500:
            averaged, n_averaged = averaged + model.estimates, n_averaged + 1
    averaged /= n_averaged

    truth = torch.cat([mean, precision[[0, 0, 1], [0, 1, 1]]])
    cov, p = torch.linalg.inv(precision), precision
    variances = [cov[0, 0], cov[1, 1], 2 * p[0, 0] ** 2, p[0, 0] * p[1, 1] + p[0, 1] ** 2, 2 * p[1, 1] ** 2]
    standard_error = (torch.stack(variances) / n).sqrt()
    likeliest = torch.linalg.inv(torch.cov(data.T, correction=0))
    likeliest = torch.cat([data.mean(0), likeliest[[0, 0, 1], [0, 1, 1]]])
    assert ((averaged - likeliest).abs() < standard_error / 3).all(), (averaged - likeliest) / standard_error
    assert ((averaged - truth).abs() < (5 + 1 / 3) * standard_error).all(), (averaged - truth) / standard_error
