"""Log-likelihoods: their value, their two errors, bits per dimension, and what is refused."""

import math

import pytest
import torch

from torchebm.core import EnergyModel, GaussianMixtureModel, GaussianModel, HarmonicModel, StandardizedModel
from torchebm.core.analytic import UniformModel
from torchebm.evaluation import LogZ, UnboundedEnergyError, log_likelihood, log_z
from torchebm.models import MLPEnergy

F64 = torch.float64


def gaussian():
    return GaussianModel(torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64))


def test_the_value_by_the_formula(generator):
    model = gaussian()
    x = model.sample(500, generator=generator)
    found = log_likelihood(model + 3.0, x, log_z=LogZ(float(model.log_z) - 3, (0.0, 0.0), "known"))
    normal = torch.distributions.MultivariateNormal(model.mean, model.cov)
    expected = normal.log_prob(x)
    torch.testing.assert_close(found.log_density, expected, rtol=1e-10, atol=1e-10)
    assert found.mean == pytest.approx(float(expected.mean()), rel=1e-10)
    assert found.standard_error == pytest.approx(float(expected.std()) / math.sqrt(500), rel=1e-10)
    assert found.dim == 2


def test_the_two_errors_are_told_apart_and_put_together(generator):
    model = gaussian()
    x = model.sample(500, generator=generator)
    found = log_likelihood(model, x, log_z=LogZ(2.0, (1.9, 2.3), "an estimate"))
    low, high = found.normalizer_interval
    assert low == pytest.approx(found.mean - 0.3)  # a larger log Z is a smaller likelihood
    assert high == pytest.approx(found.mean + 0.1)
    data = 1.959964 * found.standard_error
    assert found.interval[0] == pytest.approx(found.mean - math.hypot(0.3, data))
    assert found.interval[1] == pytest.approx(found.mean + math.hypot(0.1, data))
    exact = log_likelihood(model, x, log_z=float(model.log_z))
    assert exact.normalizer_interval == (exact.mean, exact.mean)
    assert "taken to be exact" in str(exact)


def test_intervals_hold_the_expected_log_likelihood(generator):
    """Of 300 test sets at least 270: 95 % intervals do less once in 10^4 at worst, and here the stream is fixed."""
    model = gaussian()
    entropy = 1 + math.log(2 * math.pi) + 0.5 * float(torch.logdet(model.cov))
    held = 0
    for _ in range(300):
        found = log_likelihood(model, model.sample(200, generator=generator), log_z=model.log_z, check_tails=False)
        held += found.interval[0] <= -entropy <= found.interval[1]
    assert held >= 270


def test_with_a_normaliser_that_is_estimated(generator):
    """In the data's units, whatever those are, and without telling where the model's mass is."""
    inner = GaussianMixtureModel([[-1.0, 0.0], [1.0, 0.0]], scales=0.5)
    model = StandardizedModel(inner + 4.0, torch.tensor([700.0, -3.0]), torch.tensor([[50.0, 0.0], [10.0, 0.2]]))
    z = inner.sample(500, generator=generator)
    x = model.transform(z)
    found = log_likelihood(model, x, n_particles=400, generator=generator)
    exact = float(-inner(z).mean()) - math.log(50 * 0.2)
    assert abs(found.mean - exact) < 2 * (found.normalizer_interval[1] - found.normalizer_interval[0])
    assert found.log_z.upper is not None
    text = str(found)
    assert "nats a point" in text
    assert "of the data" in text
    assert "of the normaliser" in text
    assert "bits" not in text
    assert found.bits_per_dim is None
    figures = found.as_dict()
    assert figures["n"] == 500
    assert figures["log_z"]["gap"] == pytest.approx(found.log_z.gap)


def test_batches_give_the_same(generator):
    model = gaussian()
    x = model.sample(50, generator=generator)
    whole, parts = (log_likelihood(model, x, log_z=1.0, batch_size=n) for n in (None, 7))
    torch.testing.assert_close(whole.log_density, parts.log_density)


def test_bits_per_dimension_are_code_lengths(generator):
    """Whole values 0 ... 15, all as likely, need 4 bits each: in any units, with a density that is constant."""
    values = torch.randint(16, (300, 3), generator=generator)
    for unit in (1.0, 1 / 16):
        x = (values + torch.rand(values.shape, generator=generator)) * unit
        model = UniformModel(torch.zeros(3), torch.full((3,), 16 * unit))
        found = log_likelihood(model, x, log_z=model.log_z, bin_width=unit, check_tails=False)
        assert found.bits_per_dim == pytest.approx(4.0)
        assert found.bits_per_dim_interval == pytest.approx((4.0, 4.0))
        assert "4.0000 bits per dimension" in str(found)
    wide = log_likelihood(model, x, log_z=LogZ(1.0, (0.7, 1.6), "an estimate"), bin_width=unit, check_tails=False)
    low, high = wide.bits_per_dim_interval
    assert high - wide.bits_per_dim == pytest.approx(0.6 / 3 / math.log(2))
    assert wide.bits_per_dim - low == pytest.approx(0.3 / 3 / math.log(2))


def test_data_that_were_not_dequantised_are_refused(generator):
    values = torch.randint(256, (50, 4), generator=generator) / 255
    model = HarmonicModel(dim=4)
    with pytest.raises(ValueError, match="not dequantised"):
        log_likelihood(model, values, log_z=model.log_z, bin_width=1 / 255)
    with pytest.raises(ValueError, match="not dequantised"):
        log_likelihood(model, 2 * values - 1, log_z=model.log_z, bin_width=2 / 255)
    noisy = values + torch.rand(values.shape, generator=generator) / 255
    assert log_likelihood(model, noisy, log_z=model.log_z, bin_width=1 / 255).bits_per_dim > 0


def test_energies_without_a_normaliser_are_refused(generator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLPEnergy(2, hidden_dims=(16, 16))
    x = torch.randn(50, 2, generator=generator)
    for log_z_given in (None, 1.0):
        with pytest.raises(UnboundedEnergyError, match="no log Z and no likelihood"):
            log_likelihood(model, x, log_z=log_z_given, generator=generator)
    confined = model + HarmonicModel(k=0.1, dim=2)
    assert math.isfinite(log_likelihood(confined, x, n_particles=100, generator=generator).mean)


def test_a_normaliser_in_a_box_is_enough(generator):
    model = EnergyModel(lambda x: 0.0 * x.sum(-1), event_shape=[2])
    box = UniformModel(torch.zeros(2), torch.tensor([2.0, 3.0]))
    inside = log_z(model, "smc", base=box, n_particles=50, generator=generator)
    found = log_likelihood(model, box.sample(10, generator=generator), log_z=inside)
    assert found.mean == pytest.approx(-math.log(6), abs=1e-6)
    with pytest.raises(ValueError, match="1 of 2 points lie outside of the box"):
        log_likelihood(model, torch.tensor([[1.0, 1.0], [5.0, 1.0]]), log_z=inside)


@pytest.mark.parametrize(
    ("energy", "options", "error", "message"),
    [
        (lambda x: x.sum(1) * torch.nan, {}, ValueError, "NaN or -inf at 4 of 4"),
        (lambda x: x.sum(1) + torch.where(x[:, 0] > 2.5, torch.inf, 0.0), {}, ValueError, "no density at 1 of 4"),
        (lambda x: x, {}, ValueError, "expected .4."),
        (lambda x: x.sum(1), {"x": torch.zeros(1, 2)}, ValueError, "two points or more"),
        (lambda x: x.sum(1), {"n_particles": 5}, TypeError, "n_particles would have no effect"),
        (lambda x: x.sum(1), {"log_z": torch.inf}, ValueError, "log_z must be finite"),
        (lambda x: x.sum(1), {"bin_width": 0.0}, ValueError, "bin_width must be greater than 0"),
    ],
)
def test_arguments_that_are_refused(energy, options, error, message):
    x = torch.arange(4.0).unsqueeze(1).expand(4, 2)
    with pytest.raises(error, match=message):
        log_likelihood(EnergyModel(energy), **{"x": x, "log_z": 1.0, "check_tails": False, **options})
