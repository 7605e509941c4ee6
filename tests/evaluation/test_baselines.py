"""The mixture that a model should beat finds what there is, in any units."""

import math

import pytest
import torch

from torchebm.evaluation import fitted_gaussian, gaussian_mixture_baseline

F64 = torch.float64


def three(n, generator):
    """Three normal densities of sd 0.5, far apart; their entropy is log 3 + that of one."""
    centres = torch.tensor([[-6.0, 0.0], [6.0, 0.0], [0.0, 8.0]], dtype=F64)
    which = torch.randint(3, (n,), generator=generator)
    return centres[which] + 0.5 * torch.randn(n, 2, dtype=F64, generator=generator)


ENTROPY = math.log(3) + 1 + math.log(2 * math.pi * 0.25)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (100.0, 7.0), (0.01, -3.0)])
def test_three_groups_are_found_in_any_units(scale, shift, generator):
    """The log-likelihood is minus the entropy, within 5 standard errors and the cost of 17 estimated numbers."""
    train, x = (scale * three(1000, generator) + shift for _ in range(2))
    found = gaussian_mixture_baseline(train, x, n_components=(1, 2, 3), floors=(1e-6, 1e-3), generator=generator)
    assert found.n_components == 3
    assert found.log_likelihood + 2 * math.log(scale) == pytest.approx(-ENTROPY, abs=5 / math.sqrt(1000) + 0.02)


def test_one_component_is_the_gaussian(generator):
    x = torch.randn(500, 3, dtype=F64, generator=generator) @ torch.tensor(
        [[2.0, 1, 0], [0, 1, 0], [0, 0, 3]], dtype=F64
    )
    found = gaussian_mixture_baseline(x, x, n_components=(1,), floors=(1e-9,), generator=generator)
    centred = x - x.mean(0)
    normal = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), centred.T @ centred / 500)
    assert found.log_likelihood == pytest.approx(float(normal.log_prob(centred).mean()), abs=1e-6)
    assert found[1:] == (1, 1e-9)


def test_few_points_of_many_dimensions_get_a_higher_floor(generator):
    train = torch.randn(60, 20, dtype=F64, generator=generator)
    found = gaussian_mixture_baseline(train, train, generator=generator)
    assert found.floor == 0.1


def test_images_are_points(generator):
    train = three(200, generator)
    options = {"n_components": (3,), "floors": (1e-3,)}
    flat = gaussian_mixture_baseline(train, train, generator=torch.Generator().manual_seed(1), **options)
    images = train.view(-1, 1, 2, 1)
    assert gaussian_mixture_baseline(images, images, generator=torch.Generator().manual_seed(1), **options) == flat


def test_refused(generator):
    x = fitted_gaussian(torch.randn(50, 2, generator=generator), 9, generator=generator)
    with pytest.raises(ValueError, match="at least 10 points to fit to"):
        gaussian_mixture_baseline(x, x)
    with pytest.raises(ValueError, match="of one shape in both"):
        gaussian_mixture_baseline(torch.randn(50, 2), torch.randn(50, 3))
