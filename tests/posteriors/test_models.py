"""The reference posteriors are the densities that they say: against scipy, term by term, at random points."""

import numpy as np
import pytest
import torch

stats = pytest.importorskip("scipy.stats")


def half(distribution):
    return lambda value, scale: distribution.logpdf(value, 0, scale) + np.log(2)


half_normal, half_cauchy = half(stats.norm), half(stats.cauchy)


def eight_schools(x, y, sigma, J):
    t, mu, tau = x[:J], x[J], x[J + 1]
    prior = stats.norm.logpdf(t).sum() + stats.norm.logpdf(mu, 0, 5) + half_cauchy(tau, 5)
    return prior + stats.norm.logpdf(y, mu + tau * t, sigma).sum()


def kidscore_momiq(x, kid_score, mom_iq, N):
    likelihood = stats.norm.logpdf(kid_score, x[0] + x[1] * np.array(mom_iq), x[2]).sum()
    return likelihood + half_cauchy(x[2], 2.5)


def arK(x, y, K, T):
    alpha, beta, sigma = x[0], x[1 : K + 1], x[K + 1]
    prior = stats.norm.logpdf(alpha, 0, 10) + stats.norm.logpdf(beta, 0, 10).sum() + half_cauchy(sigma, 2.5)
    means = [alpha + sum(beta[k] * y[t - 1 - k] for k in range(K)) for t in range(K, T)]
    return prior + stats.norm.logpdf(y[K:], means, sigma).sum()


def nes(x, partyid7, real_ideo, race_adj, age_discrete, educ1, gender, income, N):
    age = np.array(age_discrete)
    columns = [np.ones(N), real_ideo, race_adj, age == 2, age == 3, age == 4, educ1, gender, income]
    eta = sum(b * np.asarray(column, dtype=float) for b, column in zip(x[:9], columns, strict=True))
    return stats.norm.logpdf(partyid7, eta, x[9]).sum()


def gp_regr(parameters, x, y, N):
    rho, alpha, sigma = parameters
    covariance = [[alpha**2 * np.exp(-((a - b) ** 2) / (2 * rho**2)) for b in x] for a in x] + sigma * np.eye(N)
    prior = stats.gamma.logpdf(rho, 25, scale=1 / 4) + half_normal(alpha, 2) + half_normal(sigma, 1)
    return prior + stats.multivariate_normal.logpdf(y, np.zeros(N), covariance)


def low_dim_gauss_mix(x, y, N):
    mu, sigma, theta = x[:2], x[2:4], x[4]
    prior = stats.norm.logpdf(mu, 0, 2).sum() + np.log(2)  # restricted to one of two orders
    prior += half_normal(sigma, 2).sum() + stats.beta.logpdf(theta, 5, 5)
    parts = [np.log(w) + stats.norm.logpdf(y, m, s) for w, m, s in zip([theta, 1 - theta], mu, sigma, strict=True)]
    return prior + np.logaddexp(*parts).sum()


def points(posterior, generator):
    """Anywhere, and near the reference."""
    wide = posterior.initial(10, generator)
    inner, transform = posterior.model.coordinates()
    if "theta[1]" in posterior.names:  # derived from what is sampled
        return wide
    centre = transform.inv(posterior.mean[None])
    shape = (10, *inner.event_shape)
    return torch.cat([wide, transform(centre + 0.05 * torch.randn(shape, dtype=wide.dtype, generator=generator))])


def test_energies_are_those_of_scipy(name, posterior, generator):
    x = points(posterior, generator)
    log_density = [globals()[name](row, **posterior.data) for row in x.numpy()]
    expected = -torch.tensor(log_density, dtype=torch.float64)
    for energy in (posterior.model(x), posterior.model.inner(x), posterior.model.energy_and_gradient(x)[0]):
        torch.testing.assert_close(energy, expected, rtol=1e-10, atol=1e-10)


def test_gradients_in_closed_form_are_those_of_autograd(posterior, generator):
    x = points(posterior, generator)
    inner, transform = posterior.model.coordinates()
    for model, at in ((posterior.model.inner, x), (inner, transform.inv(x))):
        y = at.clone().requires_grad_()
        (expected,) = torch.autograd.grad(model(y).sum(), y)
        energy, gradient = model.energy_and_gradient(at)
        scale = expected.abs().amax(1, keepdim=True)
        torch.testing.assert_close(gradient / scale, expected / scale, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(energy, model(at), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences(posterior, generator):
    x = points(posterior, generator)
    inner, transform = posterior.model.coordinates()
    z, h = transform.inv(x), 1e-5
    gradient = inner.gradient(z)
    for i in range(z.shape[1]):
        move = torch.zeros_like(z)
        move[:, i] = h
        slope = (inner(z + move) - inner(z - move)) / (2 * h)
        error = (slope - gradient[:, i]).abs()
        assert (error < 1e-6 * (inner(z).abs() + gradient.abs().amax(1))).all()


def test_the_reference_is_complete(name, posterior, generator):
    x = posterior.initial(4, generator)
    reported = posterior.report(x.expand(3, *x.shape))  # any leading axes, as those of a trajectory
    assert reported.shape == (3, 4, len(posterior.names))
    assert posterior.mean.shape == posterior.sd.shape == (len(posterior.names),)
    assert (posterior.sd > 0).all()
    assert x.dtype == torch.float64
    assert posterior.model.event_shape == x.shape[1:]
    assert posterior.model(x).isfinite().all()
    if name == "eight_schools":
        torch.testing.assert_close(reported[0, :, :8], x[:, 8:9] + x[:, 9:] * x[:, :8])
        assert torch.equal(reported[0, :, 8:], x[:, 8:])


def test_there_are_six(posteriors):
    names = {"eight_schools", "kidscore_momiq", "arK", "nes", "gp_regr", "low_dim_gauss_mix"}
    assert set(posteriors) == names
    assert [len(posteriors[name].names) for name in sorted(names)] == [7, 10, 3, 3, 5, 10]
