"""Normal densities and mixtures of them, as energies."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import integer
from .closed_form import LOG_TWO_PI, ClosedFormModel, check_points, check_tensor, cholesky, draw_normal
from .random import categorical, check_generator

__all__ = ["GaussianMixtureModel", "GaussianModel"]


class GaussianModel(ClosedFormModel):
    r"""The normal density: the first target to try a sampler on, since everything about it is known.

    $E(x) = \tfrac12 (x - \mu)^\top \Sigma^{-1} (x - \mu)$   (mean $\mu$, covariance $\Sigma$)

    Args:
        mean: $\mu$, `[dim]`.
        cov: $\Sigma$, `[dim, dim]`, symmetric and positive definite.
    Attributes:
        precision: $\Sigma^{-1}$, `[dim, dim]`.
        scale_tril: The lower Cholesky factor of $\Sigma$, `[dim, dim]`.
    Raises:
        ValueError: If `cov` is not symmetric positive definite, or the shapes disagree.
    Note: one matrix product for the gradient of a batch, and the same one for energy and gradient together. The factors
        are computed in float64 and kept in the dtype of `cov`. `cov` is read-only, as they are made from it.

    Example:
        >>> model = GaussianModel(mean=torch.zeros(2), cov=torch.eye(2))
        >>> model(torch.tensor([[1.0, 2.0]])), model.score(torch.tensor([[1.0, 2.0]]))
        (tensor([2.5000]), tensor([[-1., -2.]]))
        >>> model.sample(1000, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([1000, 2])
    """

    def __init__(self, mean: Float[Tensor, " dim"] | Sequence[float],
                 cov: Float[Tensor, "dim dim"] | Sequence[Sequence[float]]) -> None:  # fmt: skip
        super().__init__()
        mean = check_tensor("mean", mean, "[dim]", 1)
        cov = check_tensor("cov", cov, "[dim, dim]", 2)
        if cov.shape != (len(mean), len(mean)):
            raise ValueError(f"mean has length {len(mean)}, so cov must be [{len(mean)}, {len(mean)}]; "
                             f"got shape {list(cov.shape)}.")  # fmt: skip
        scale_tril = cholesky("cov", cov)
        self.register_buffer("mean", mean)
        self.register_buffer("covariance", cov)
        precision = torch.cholesky_inverse(scale_tril).to(cov.dtype)  # column by column: slow to read
        self.register_buffer("precision", precision.contiguous())
        self.register_buffer("scale_tril", scale_tril.to(cov.dtype))
        self.event_shape = mean.shape

    def forward(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        centered = self._centered(x)
        return 0.5 * (centered * self._uphill(centered)).sum(1)

    def gradient(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, "batch dim"]:
        return self._uphill(self._centered(x.detach()))

    def energy_and_gradient(
        self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch dim"]]:
        centered = self._centered(x.detach())
        gradient = self._uphill(centered)
        return 0.5 * (centered * gradient).sum(1), gradient

    @property
    def cov(self) -> Float[Tensor, "dim dim"]:
        r"""$\Sigma$, as it was given."""
        return self.covariance

    @property
    def log_z(self) -> Float[Tensor, ""]:
        r"""$\tfrac{d}{2} \log 2\pi + \tfrac12 \log |\Sigma|$"""
        return 0.5 * len(self.mean) * LOG_TWO_PI + self.scale_tril.double().diagonal().log().sum()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Exact, independent draws."""
        z = draw_normal(n, len(self.mean), self.scale_tril, generator)
        return torch.addmm(self.mean.to(z.dtype), z, self.scale_tril.mT)

    def _centered(self, x: Tensor) -> Tensor:
        check_points(x, self.event_shape)
        return x - self.mean.to(x.dtype)

    def _uphill(self, centered: Tensor) -> Tensor:
        return centered @ self.precision.to(centered.dtype)


class GaussianMixtureModel(ClosedFormModel):
    r"""A mixture of normal densities: several modes at known places, for samplers that should visit them all.

    $E(x) = -\log \sum_k w_k\, \mathcal N(x;\, \mu_k, \Sigma_k)$ (weights $w_k$, means $\mu_k$, covariances $\Sigma_k$)

    The energy is normalised: `log_z` is 0.

    Args:
        means: $\mu$, `[component, dim]`.
        covs: $\Sigma$, `[component, dim, dim]`, or `[dim, dim]` for one that all share.
        scales: Instead of `covs`, standard deviations: a number, `[component]`, or `[component, dim]`.
        weights: $w$, `[component]`, positive; equal if left out. They are scaled to sum to one.
    Raises:
        ValueError: If a covariance is not symmetric positive definite, a scale or weight not positive, or the shapes
            disagree.
        TypeError: If both or neither of `covs` and `scales` are given.
    Note: one batched matrix product for energies and a second for gradients; none with `scales`.

    Example:
        >>> model = GaussianMixtureModel(means=[[-2.0, 0.0], [2.0, 0.0]], scales=0.5, weights=[0.25, 0.75])
        >>> model.mean
        tensor([1., 0.])
        >>> model.gradient(torch.tensor([[2.0, 0.5]])).round(decimals=3)  # in the right-hand well
        tensor([[0., 2.]])
    """

    def __init__(
        self,
        means: Float[Tensor, "component dim"] | Sequence[Sequence[float]],
        covs: Float[Tensor, "component dim dim"] | Float[Tensor, "dim dim"] | None = None,
        weights: Float[Tensor, " component"] | Sequence[float] | None = None,
        *,
        scales: float | Float[Tensor, " component"] | Float[Tensor, "component dim"] | None = None,
    ) -> None:
        super().__init__()
        means = check_tensor("means", means, "[component, dim]", 2)
        n_components, dim = means.shape
        if (covs is None) == (scales is None):
            raise TypeError("give covs or scales, one of the two: covariances, or standard deviations.")
        self.register_buffer("means", means)
        if scales is None:
            covs = check_tensor("covs", covs, "[component, dim, dim] or [dim, dim]", (2, 3))
            if covs.shape not in ((dim, dim), (n_components, dim, dim)):
                raise ValueError(f"means has shape {list(means.shape)}, so covs must be [{dim}, {dim}] or "
                                 f"[{n_components}, {dim}, {dim}]; got shape {list(covs.shape)}.")  # fmt: skip
            spread, tril = covs, cholesky("covs", covs).expand(n_components, dim, dim)  # [component, dim, dim]
            log_dets = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            whitening = torch.linalg.solve_triangular(tril, torch.eye(dim).to(tril), upper=False)
        else:
            spread = check_tensor("scales", scales, "a number, [component] or [component, dim]", (0, 1, 2))
            if spread.shape not in ((), (n_components,), (n_components, dim)) or not bool((spread > 0).all()):
                raise ValueError(f"scales must be positive, a number, [{n_components}] or [{n_components}, {dim}]; "
                                 f"got {spread.tolist()}.")  # fmt: skip
            tril = (spread.unsqueeze(-1) if spread.ndim == 1 else spread).double().expand(n_components, dim)
            log_dets = tril.log().sum(-1)
            whitening = 1 / tril
        weights = torch.ones(n_components) if weights is None else check_tensor("weights", weights, "[component]", 1)
        if weights.shape != (n_components,) or not bool((weights > 0).all()):
            raise ValueError(f"expected {n_components} positive weights, one a component; got {weights.tolist()}.")
        log_weights = (weights.double() / weights.double().sum()).log().to(means)
        self.register_buffer("log_weights", log_weights)
        self.register_buffer("log_norms", (-0.5 * dim * LOG_TWO_PI - log_dets).to(means))
        self.register_buffer("factors", tril.to(spread.dtype).contiguous())  # Cholesky factors, or scales
        self.register_buffer("whitening", whitening.to(spread.dtype).contiguous())  # their inverses
        self.event_shape = means.shape[1:]

    def forward(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        return -torch.logsumexp(self._log_shares(self._whiten(x)), 0)

    def gradient(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, "batch dim"]:
        white = self._whiten(x.detach())
        return self._uphill(white, self._log_shares(white))

    def energy_and_gradient(
        self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch dim"]]:
        white = self._whiten(x.detach())
        log_shares = self._log_shares(white)
        return -torch.logsumexp(log_shares, 0), self._uphill(white, log_shares)

    @property
    def weights(self) -> Float[Tensor, " component"]:
        """The probability of each component."""
        return self.log_weights.exp()

    @property
    def covs(self) -> Float[Tensor, "component dim dim"]:
        """The covariance of each component."""
        return torch.diag_embed(self.factors.square()) if self._diagonal else self.factors @ self.factors.mT

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        """The mean of the mixture."""
        return self.weights @ self.means

    @property
    def cov(self) -> Float[Tensor, "dim dim"]:
        """The covariance of the mixture: that within the components plus that between their means."""
        centered = self.means - self.mean
        within = torch.einsum("k,kde->de", self.weights, self.covs.to(self.means.dtype))
        return within + (self.weights.unsqueeze(1) * centered).mT @ centered

    @property
    def log_z(self) -> Float[Tensor, ""]:
        """0: the energy is normalised."""
        return torch.zeros((), dtype=torch.float64, device=self.means.device)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Exact, independent draws: a component by its weight, then a point of it."""
        check_generator(generator, self.means.device)
        which = categorical(self.weights, integer("n", n), generator=generator)  # [n]
        z = draw_normal(n, self.means.shape[1], self.means, generator)
        factors = self.factors.to(z.dtype)
        if self._diagonal:
            return self.means[which] + factors[which] * z
        spread = torch.matmul(z, factors.mT)  # [component, n, dim]
        return self.means[which] + spread[which, torch.arange(n, device=z.device)]

    @property
    def _diagonal(self) -> bool:
        return self.factors.ndim == 2

    def _whiten(self, x: Tensor) -> Tensor:
        check_points(x, self.event_shape)
        # batch last and contiguous: loops over long rows vectorise, over short ones they do not
        centered = x.mT.contiguous() - self.means.to(x.dtype).unsqueeze(2)  # [component, dim, batch]
        whitening = self.whitening.to(x.dtype)
        return centered * whitening.unsqueeze(2) if self._diagonal else torch.bmm(whitening, centered)

    def _log_shares(self, white: Tensor) -> Tensor:
        log_peaks = (self.log_weights + self.log_norms).to(white.dtype)
        return torch.add(log_peaks.unsqueeze(1), white.square().sum(1), alpha=-0.5)  # [component, batch]

    def _uphill(self, white: Tensor, log_shares: Tensor) -> Tensor:
        pull = torch.softmax(log_shares, 0).unsqueeze(1) * white  # [component, dim, batch]
        whitening = self.whitening.to(white.dtype)
        if self._diagonal:
            return (pull * whitening.unsqueeze(2)).sum(0).mT.contiguous()
        return pull.flatten(0, 1).mT @ whitening.flatten(0, 1)  # [batch, dim]
