"""Six posteriors with reference means and standard deviations, as models: what samplers are held against.

`POSTERIORS[name]` has a model in float64 on the constrained space, starting points, the parameters that the reference
reports, and its figures. Energies are normalised where the model is proper, and their gradients are in closed form, so
that 64 chains cost well under a millisecond an evaluation. Data and figures: posteriordb, see LICENSE in this folder.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from torchebm.core import BaseModel, ClosedFormModel
from torchebm.core.bijections import ordered
from torchebm.core.random import uniform

FOLDER = Path(__file__).parent
LOG_TWO_PI = math.log(2 * math.pi)


class EightSchools(ClosedFormModel):
    """x = (t, mu, tau): y ~ Normal(mu + tau t, sigma), with the sigma of each school known.

    t ~ Normal(0, 1), mu ~ Normal(0, 5), tau ~ half-Cauchy(5).
    """

    support = [(constraints.real, 9), (constraints.positive, 1)]  # noqa: RUF012

    def __init__(self, y, sigma, **sizes):
        super().__init__()
        self.register_buffer("y", vector(y))
        self.register_buffer("sigma", vector(sigma))
        half_cauchy = math.log(5 * math.pi / 2)
        self.constant = 8.5 * LOG_TWO_PI + math.log(5.0) + float(self.sigma.log().sum()) + half_cauchy

    def energy_and_gradient(self, x):
        x = x.detach()
        t, mu, tau = x[:, :-2], x[:, -2:-1], x[:, -1:]
        pull = (mu + tau * t - self.y) / self.sigma**2
        energy = (
            0.5 * (t.square() + (pull * self.sigma).square()).sum(1) + (mu**2 / 50 + (tau / 5).square().log1p())[:, 0]
        )
        of_mu = pull.sum(1, keepdim=True) + mu / 25
        of_tau = (pull * t).sum(1, keepdim=True) + 2 * tau / (25 + tau**2)
        return energy + self.constant, torch.cat([t + tau * pull, of_mu, of_tau], 1)

    def forward(self, x):
        t, mu, tau = x[:, :-2], x[:, -2:-1], x[:, -1:]
        residual = (self.y - mu - tau * t) / self.sigma
        prior = (mu**2 / 50 + (tau / 5).square().log1p())[:, 0]
        return 0.5 * (t.square() + residual.square()).sum(1) + prior + self.constant

    @staticmethod
    def report(x):
        """The effects themselves rather than the standardised ones."""
        t, mu, tau = x[..., :-2], x[..., -2:-1], x[..., -1:]
        return torch.cat([mu + tau * t, mu, tau], -1)


class LinearRegression(ClosedFormModel):
    r"""x = (beta, sigma): y ~ Normal(A beta, sigma), by $|y - A\beta|^2 = (\beta - b)^\top A^\top A (\beta - b) + r$.

    Args:
        design: $A$, `[n, k]`.
        y: `[n]`.
        coefficient_scale: beta ~ Normal(0, this); flat if left out.
        sigma_scale: sigma ~ half-Cauchy(0, this); flat if left out.
    """

    def __init__(self, design, y, coefficient_scale=None, sigma_scale=None):
        super().__init__()
        k = design.shape[1]
        least_squares = torch.linalg.lstsq(design, y[:, None], driver="gelsd").solution[:, 0]
        self.register_buffer("least_squares", least_squares)
        self.register_buffer("gram", design.T @ design)
        self.n, self.rest = len(y), float((y - design @ least_squares).square().sum())
        self.support = [(constraints.real, k), (constraints.positive, 1)]
        self.precision = 0.0 if coefficient_scale is None else coefficient_scale**-2
        self.sigma_scale = sigma_scale
        self.constant = 0.5 * self.n * LOG_TWO_PI
        if coefficient_scale is not None:
            self.constant += k * (0.5 * LOG_TWO_PI + math.log(coefficient_scale))
        if sigma_scale is not None:
            self.constant += math.log(sigma_scale * math.pi / 2)

    def energy_and_gradient(self, x):
        x = x.detach()
        beta, sigma = x[:, :-1], x[:, -1:]
        away = beta - self.least_squares
        pull = away @ self.gram
        squares = (away * pull).sum(1, keepdim=True) + self.rest
        of_sigma = (self.n - squares / sigma**2) / sigma
        if self.sigma_scale is not None:
            of_sigma = of_sigma + 2 * sigma / (self.sigma_scale**2 + sigma**2)
        of_beta = pull / sigma**2 + self.precision * beta
        return self._energy(beta, sigma, squares), torch.cat([of_beta, of_sigma], 1)

    def forward(self, x):
        beta, sigma = x[:, :-1], x[:, -1:]
        away = beta - self.least_squares
        return self._energy(beta, sigma, (away * (away @ self.gram)).sum(1, keepdim=True) + self.rest)

    def _energy(self, beta, sigma, squares):
        energy = 0.5 * squares / sigma**2 + self.n * sigma.log()
        if self.sigma_scale is not None:
            energy = energy + (sigma / self.sigma_scale).square().log1p()
        return energy[:, 0] + 0.5 * self.precision * beta.square().sum(1) + self.constant


class GaussianProcess(ClosedFormModel):
    """x = (rho, alpha, sigma): y ~ Normal(0, C), C = alpha^2 exp(-distance^2 / 2 rho^2) + sigma [i = j].

    rho ~ Gamma(25, rate 4), alpha ~ half-Normal(2), sigma ~ half-Normal(1).
    """

    support = [(constraints.positive, 3)]  # noqa: RUF012

    def __init__(self, x, y, **sizes):
        super().__init__()
        x = vector(x)
        self.register_buffer("y", vector(y))
        self.register_buffer("squares", (x[:, None] - x).square())
        gamma = math.lgamma(25.0) - 25 * math.log(4.0)
        half_normals = LOG_TWO_PI - 2 * math.log(2.0) + math.log(2.0)
        self.constant = 0.5 * len(x) * LOG_TWO_PI + gamma + half_normals

    def energy_and_gradient(self, x):
        x = x.detach()
        rho, alpha, sigma = x.unbind(1)
        energy, kernel, factor, solved = self._likelihood(x)
        uphill = 0.5 * (torch.cholesky_inverse(factor) - solved[:, :, None] * solved[:, None, :])  # dE / dC
        weighted = uphill * kernel
        of_rho = (weighted * self.squares).sum((1, 2)) / rho**3 - 24 / rho + 4
        of_alpha = 2 * weighted.sum((1, 2)) / alpha + alpha / 4
        of_sigma = uphill.diagonal(0, 1, 2).sum(1) + sigma
        return energy, torch.stack([of_rho, of_alpha, of_sigma], 1)

    def forward(self, x):
        return self._likelihood(x)[0]

    def _likelihood(self, x):
        rho, alpha, sigma = x.unbind(1)
        kernel = alpha[:, None, None] ** 2 * torch.exp(-0.5 * self.squares / rho[:, None, None] ** 2)
        covariance = kernel + torch.diag_embed(sigma[:, None].expand(-1, len(self.y)))
        factor, failed = torch.linalg.cholesky_ex(covariance)
        # Rounding leaves the farthest points without a factor; theirs is an infinite energy, and any other will do.
        singular = (failed != 0)[:, None, None] | (factor.diagonal(0, 1, 2) <= 0).any(1)[:, None, None]
        factor = torch.where(singular, torch.eye(len(self.y), dtype=x.dtype), factor)
        solved = torch.cholesky_solve(self.y[:, None].expand(len(x), -1, 1), factor)[:, :, 0]
        likelihood = 0.5 * solved @ self.y + factor.diagonal(0, 1, 2).log().sum(1)
        prior = 4 * rho - 24 * rho.log() + alpha**2 / 8 + sigma**2 / 2
        energy = torch.where(singular[:, 0, 0], torch.inf, likelihood + prior + self.constant)
        return energy, kernel, factor, solved


class NormalMixture(ClosedFormModel):
    """x = (mu_1 < mu_2, sigma_1, sigma_2, theta): y ~ theta Normal(mu_1, sigma_1) + (1 - theta) Normal(mu_2, sigma_2).

    mu ~ Normal(0, 2), sigma ~ half-Normal(2), theta ~ Beta(5, 5). The logarithms of both components are quadratic in y,
    so that one matrix product with (1, y, y^2) makes their difference, and one more the gradient. Expanded like this
    they cancel where sigma is below a millionth, and would leave energies far below the least; they are infinite there,
    where the posterior has no mass to speak of.
    """

    support = [(ordered, 2), (constraints.positive, 2), (constraints.unit_interval, 1)]  # noqa: RUF012

    def __init__(self, y, **sizes):
        super().__init__()
        y = vector(y)
        self.register_buffer("powers", torch.stack([torch.ones_like(y), y, y**2]))  # [3, n]
        self.register_buffer("sums", self.powers.sum(1))
        beta = 2 * math.lgamma(5.0) - math.lgamma(10.0)
        priors = 4 * (0.5 * LOG_TWO_PI + math.log(2.0)) - 2 * math.log(2.0) - math.log(2.0) + beta
        self.constant = 0.5 * len(y) * LOG_TWO_PI + priors  # the order of mu halves its space

    def energy_and_gradient(self, x):
        x = x.detach()
        mu, sigma, theta = x[:, :2], x[:, 2:4], x[:, 4:]
        energy, difference = self._energy(x)
        first = torch.sigmoid(difference) @ self.powers.T  # [chain, 3]: sums over what the first component explains
        n, s, q = (moment.squeeze(1) for moment in torch.stack([first, self.sums - first], 2).split(1, 1))
        of_mu = (mu * n - s) / sigma**2 + mu / 4
        of_sigma = (n - (q - 2 * mu * s + mu**2 * n) / sigma**2) / sigma + sigma / 4
        of_theta = (n[:, 1:] + 4) / (1 - theta) - (n[:, :1] + 4) / theta
        return energy, torch.cat([of_mu, of_sigma, of_theta], 1)

    def forward(self, x):
        return self._energy(x)[0]

    def _energy(self, x):
        mu, sigma, theta = x[:, :2], x[:, 2:4], x[:, 4]
        weight = torch.stack([theta.log(), (-theta).log1p()], 1)
        precision = sigma**-2
        curves = torch.stack([weight - sigma.log() - 0.5 * mu**2 * precision, mu * precision, -0.5 * precision], 1)
        difference = (curves[:, :, 0] - curves[:, :, 1]) @ self.powers  # [chain, n]
        likelihood = F.softplus(difference, threshold=40).sum(1) + curves[:, :, 1] @ self.sums
        prior = (mu**2 + sigma**2).sum(1) / 8 - 4 * weight.sum(1)
        return torch.where((sigma > 1e-6).all(1), prior - likelihood + self.constant, torch.inf), difference


def auto_regression(y, K, T):
    """x = (alpha, beta, sigma): order K, given the first K values."""
    y = vector(y)
    past = [y[K - k : T - k] for k in range(1, K + 1)]
    design = torch.stack([torch.ones(T - K, dtype=y.dtype), *past], 1)
    return LinearRegression(design, y[K:], coefficient_scale=10.0, sigma_scale=2.5)


def kid_scores(kid_score, mom_iq, **sizes):
    """x = (beta, sigma): children's test scores by their mothers' intelligence."""
    design = torch.stack([torch.ones(len(mom_iq), dtype=torch.float64), vector(mom_iq)], 1)
    return LinearRegression(design, vector(kid_score), sigma_scale=2.5)


def election_survey(partyid7, real_ideo, race_adj, age_discrete, educ1, gender, income, **sizes):
    """x = (beta, sigma): party identification by ideology, race, age group, education, gender and income."""
    age = torch.tensor(age_discrete)
    groups = [(age == group).double() for group in (2, 3, 4)]
    columns = [torch.ones(len(age), dtype=torch.float64), vector(real_ideo), vector(race_adj), *groups]
    return LinearRegression(torch.stack(columns + [vector(c) for c in (educ1, gender, income)], 1), vector(partyid7))


def vector(values):
    return torch.tensor(values, dtype=torch.float64)


class Posterior(NamedTuple):
    """One posterior, and what is known about it."""

    model: BaseModel
    """In float64, on the constrained space: a `ConstrainedModel`."""
    initial: Callable[..., Tensor]
    """`(n, generator) -> [n, dim]`: starting points, uniform on (-2, 2) where samplers walk."""
    report: Callable[[Tensor], Tensor]
    """`[..., dim] -> [..., parameter]`: what the reference reports of draws."""
    names: list[str]
    mean: Tensor
    """`[parameter]`, with an error of about 0.01 `sd`."""
    sd: Tensor
    data: dict


def load(name, make):
    file = json.loads((FOLDER / f"{name}.json").read_text())
    inner = make(**file["data"])
    model = inner.transformed(inner.support)

    def initial(n, generator=None):
        size = model.transform.inner_size
        return model.transform(4 * uniform((n, size), generator=generator, dtype=torch.float64) - 2)

    report = getattr(inner, "report", lambda x: x)
    return Posterior(model, initial, report, file["parameters"], vector(file["mean"]), vector(file["sd"]), file["data"])


MAKERS = {
    "eight_schools": EightSchools,
    "kidscore_momiq": kid_scores,
    "arK": auto_regression,
    "nes": election_survey,
    "gp_regr": GaussianProcess,
    "low_dim_gauss_mix": NormalMixture,
}
POSTERIORS = {name: load(name, make) for name, make in MAKERS.items()}
