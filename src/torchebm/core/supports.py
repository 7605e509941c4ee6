"""Bijections from all of space onto one support: those that torch.distributions lacks, or has with clamped values."""

from typing import cast

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import (
    CatTransform,
    CorrCholeskyTransform,
    IndependentTransform,
    StackTransform,
    Transform,
)
from torch.nn.functional import logsigmoid, pad

__all__ = [
    "CorrelationTransform",
    "IntervalTransform",
    "OrderedTransform",
    "SimplexTransform",
    "correlation_matrix",
    "onto",
    "ordered",
]

Bound = float | Tensor


# the constraints that torch.distributions lacks ---------------------------------------------------------------------


class _Ordered(Constraint):  # torch prints a constraint as its class without the underscore
    """Vectors whose entries increase."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value[..., 1:] > value[..., :-1]).all(-1)


class _CorrelationMatrix(Constraint):
    """Symmetric positive definite matrices with a diagonal of ones."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        n = value.shape[-1]
        wide = value if value.dtype == torch.float64 else value.float()  # a factorisation needs at least float32
        tolerance = 10 * n * torch.finfo(value.dtype).eps
        off = torch.maximum((wide - wide.mT).abs().amax((-2, -1)), (wide.diagonal(0, -2, -1) - 1).abs().amax(-1))
        factor, failed = torch.linalg.cholesky_ex(wide)
        return (off <= tolerance) & (failed == 0) & (factor == factor).all(-1).all(-1)


ordered = _Ordered()
correlation_matrix = _CorrelationMatrix()


class OrderedTransform(Transform):
    r"""$x_1 = z_1,\ x_k = x_{k-1} + e^{z_k}$: all vectors onto increasing ones.

    Example:
        >>> OrderedTransform()(torch.tensor([[1.0, 0.0, 0.0]]))
        tensor([[1., 2., 3.]])
    """

    domain = constraints.real_vector
    codomain = ordered
    bijective = True

    def _call(self, z: Tensor) -> Tensor:
        return torch.cat([z[..., :1], z[..., 1:].exp()], -1).cumsum(-1)

    def _inverse(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x.diff(dim=-1).log()], -1)

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        return z[..., 1:].sum(-1)


class CorrelationTransform(Transform):
    r"""Vectors of length $n(n-1)/2$ onto correlation matrices `[n, n]`: $x = L L^\top$, L from `CorrCholeskyTransform`.

    Volume is measured in the entries below the diagonal, as in the LKJ density $\propto |x|^{\eta - 1}$.

    Example:
        >>> CorrelationTransform()(torch.tensor([[0.0], [0.5493]]))[:, 0, 1]  # the hyperbolic tangent
        tensor([0.0000, 0.5000])
    """

    domain = constraints.real_vector
    codomain = correlation_matrix
    bijective = True
    factor = CorrCholeskyTransform()

    def _call(self, z: Tensor) -> Tensor:
        factor = cast(Tensor, self.factor(z))
        return factor @ factor.mT

    def _inverse(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return cast(Tensor, self.factor.inv(torch.linalg.cholesky(wide))).to(x.dtype)

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        factor = cast(Tensor, self.factor(z))
        n = factor.shape[-1]
        powers = torch.arange(n - 1, -1, -1, dtype=z.dtype, device=z.device)  # of the diagonal, in |dx / dL|
        outer = (powers[1:] * factor.diagonal(0, -2, -1)[..., 1:].log()).sum(-1)
        return self.factor.log_abs_det_jacobian(z, factor) + outer

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.factor.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.factor.inverse_shape(shape)


class IntervalTransform(Transform):
    r"""$x = a + (b - a) / (1 + e^{-z})$: all numbers onto those between a and b, in as many digits as there are.

    Near either bound, x is computed from its distance to it, so that next to a bound of 0 it is as fine as floating
    point itself. Where it rounds to a bound nonetheless, it has left the open interval: there the logarithm of the
    Jacobian is minus infinity, and a sampler rejects. (torch clamps x, and chains collect at the value it clamps to.)

    Args:
        lower: $a$, a number or a tensor.
        upper: $b$.

    Example:
        >>> IntervalTransform(-1.0, 0.0)(torch.tensor([-50.0, 0.0, 50.0]))
        tensor([-1.0000e+00, -5.0000e-01, -1.9287e-22])
    """

    domain = constraints.real
    bijective = True

    def __init__(self, lower: Bound, upper: Bound) -> None:
        super().__init__()
        self.lower, self.upper, self.width = lower, upper, upper - lower
        width = torch.as_tensor(self.width, dtype=None if isinstance(self.width, Tensor) else torch.float64)
        if not bool((width > 0).all()):
            raise ValueError(f"the lower bound of an interval must be below the upper; got {lower} and {upper}.")
        self._log_width = width.log() if isinstance(self.width, Tensor) else float(width.log())

    @property
    def codomain(self) -> Constraint:
        return constraints.interval(self.lower, self.upper)

    def _call(self, z: Tensor) -> Tensor:
        left = z < 0
        part = self.width * torch.sigmoid(torch.where(left, z, -z))  # from the nearer bound
        return torch.where(left, self.lower + part, self.upper - part).to(z.dtype)

    def _inverse(self, x: Tensor) -> Tensor:
        return (x - self.lower).log() - (self.upper - x).log()

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        log_det = (logsigmoid(z) + logsigmoid(-z) + self._log_width).to(z.dtype)
        return torch.where((x > self.lower) & (x < self.upper), log_det, -torch.inf)


class SimplexTransform(Transform):
    r"""$x_k = v_k \prod_{j<k} (1 - v_j)$: vectors of length K - 1 onto K positive numbers that sum to one.

    $v_k = 1 / (1 + (K - k) e^{-z_k})$, so that z = 0 is the centre. Each x is computed from the sum of logarithms, and
    is as small as floating point can tell; at 0 it has left the simplex, and the logarithm of the Jacobian is minus
    infinity. (The stick-breaking of torch is the same map with clamped values.)

    Example:
        >>> SimplexTransform()(torch.zeros(2))
        tensor([0.3333, 0.3333, 0.3333])
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def _call(self, z: Tensor) -> Tensor:
        return self._logarithms(z)[0].exp()

    def _inverse(self, x: Tensor) -> Tensor:
        self.inverse_shape(x.shape)
        rest = x[..., 1:].flip(-1).cumsum(-1).flip(-1)  # what remains of the stick
        return x[..., :-1].log() - rest.log() + self._offset(rest)

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        log_x, log_rest = self._logarithms(z)
        log_det = log_x[..., :-1].sum(-1) + log_rest.sum(-1)
        return torch.where((x > 0).all(-1), log_det, -torch.inf)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        if len(shape) < 1 or shape[-1] < 2:
            raise ValueError(
                f"a simplex needs two components or more, since they sum to one; got points of shape {list(shape)}."
            )
        return torch.Size((*shape[:-1], shape[-1] - 1))

    def _logarithms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Of x, and of 1 - v."""
        t = z - self._offset(z)
        log_rest = logsigmoid(-t)
        return pad(logsigmoid(t), [0, 1]) + pad(log_rest.cumsum(-1), [1, 0]), log_rest

    def _offset(self, z: Tensor) -> Tensor:
        n = z.shape[-1]
        return torch.arange(n, 0, -1, dtype=z.dtype, device=z.device).log()


def onto(constraint: Constraint) -> Transform:
    """The bijection from real numbers: this file's, or else that of `torch.distributions.biject_to`.

    Raises:
        NotImplementedError: If there is none.
    """
    match constraint:
        case constraints.interval() | constraints.half_open_interval():
            return IntervalTransform(constraint.lower_bound, constraint.upper_bound)
        case constraints.independent():
            return IndependentTransform(onto(constraint.base_constraint), constraint.reinterpreted_batch_ndims)
        case constraints.cat():
            return CatTransform([onto(part) for part in constraint.cseq], constraint.dim, constraint.lengths)
        case constraints.stack():
            return StackTransform([onto(part) for part in constraint.cseq], constraint.dim)
    return SimplexTransform() if isinstance(constraint, type(constraints.simplex)) else biject_to(constraint)


biject_to.register(type(ordered), lambda constraint: OrderedTransform())
biject_to.register(type(correlation_matrix), lambda constraint: CorrelationTransform())
