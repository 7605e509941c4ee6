"""Supports of constrained parameters, one or several in a vector: bijections onto them, and starting points there."""

import math
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import ComposeTransform, ExpTransform, Transform

from .supports import CorrelationTransform, OrderedTransform, correlation_matrix, onto, ordered

__all__ = [
    "Blocks",
    "CorrelationTransform",
    "OrderedTransform",
    "Support",
    "bijection_onto",
    "correlation_matrix",
    "inside",
    "ordered",
    "pull_back",
]

Shape = int | Sequence[int]
Block = tuple[Constraint | Transform, Shape]


# one constraint, or several in a vector -----------------------------------------------------------------------------


class Support(Transform):
    """The bijection onto the support that a constraint describes, which remembers the constraint.

    Args:
        constraint: Such as `constraints.positive`, `constraints.interval(0, 1)` or `constraints.simplex`.
    """

    bijective = True

    def __init__(self, constraint: Constraint) -> None:
        super().__init__()
        self.constraint = constraint
        try:
            self.part = onto(constraint)
        except NotImplementedError:
            raise ValueError(
                f"there is no bijection from real numbers onto {constraint}. There is one onto positive, greater_than, "
                "less_than, interval, simplex and corr_cholesky of torch.distributions.constraints, and onto ordered "
                "and correlation_matrix of torchebm.core.bijections."
            ) from None
        if type(constraint) is type(constraints.positive) and _is_zero(getattr(constraint, "lower_bound", None)):
            self.part = ExpTransform()  # torch would add the bound, 0, at every evaluation

    @property
    def domain(self) -> Constraint:
        return self.part.domain

    @property
    def codomain(self) -> Constraint:
        return self.constraint

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.part.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.part.inverse_shape(shape)

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        return self.part.log_abs_det_jacobian(z, x)

    def _call(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.part(z))

    def _inverse(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.part.inv(x))

    def __repr__(self) -> str:
        return repr(self.constraint)


class _Piece(NamedTuple):
    """One parameter of `Blocks`."""

    transform: Transform
    shape: torch.Size  # of the parameter
    inner: torch.Size  # of what it is made from
    at: slice  # where it is in x
    inner_at: slice  # and in z


class Blocks(Transform):
    r"""Several parameters in one flat vector, each with a support of its own.

    Args:
        blocks: A pair for each parameter: a constraint (or a bijection), and its shape or length; `()` is a number.

    Example:
        >>> parameters = Blocks([(constraints.real, 2), (constraints.positive, ()), (constraints.simplex, 3)])
        >>> z = torch.zeros(5, 5)  # a simplex of 3 has 2 dimensions
        >>> mean, scale, weights = parameters.split(parameters(z))
        >>> mean.shape, scale.shape, weights[0]
        (torch.Size([5, 2]), torch.Size([5]), tensor([0.3333, 0.3333, 0.3333]))
    """

    domain = constraints.real_vector
    bijective = True

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.pieces: list[_Piece] = []
        end = inner_end = 0
        for block in blocks:
            if not isinstance(block, (tuple, list)) or len(block) != 2:
                raise TypeError(f"a block is a pair (constraint, shape), as (constraints.positive, 1); got {block!r}.")
            transform, shape = bijection_onto(block[0]), _shape(block[1])
            n_axes = transform.codomain.event_dim
            if len(shape) < n_axes:
                raise ValueError(f"{transform} is about points with {n_axes} axes; a block of it has shape {[*shape]}.")
            inner = torch.Size(transform.inverse_shape(shape))
            piece = _Piece(transform, shape, inner, slice(end, end + shape.numel()),
                           slice(inner_end, inner_end + inner.numel()))  # fmt: skip
            self.pieces.append(piece)
            end, inner_end = piece.at.stop, piece.inner_at.stop
        if inner_end == 0:
            raise ValueError(f"blocks must have something to sample; got {list(blocks)!r}.")
        self.size, self.inner_size = end, inner_end

    @property
    def codomain(self) -> Constraint:
        return _BlockSupport(self)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of x, the vector of all parameters."""
        return torch.Size([self.size])

    def split(self, x: Float[Tensor, " *batch size"]) -> list[Tensor]:
        """The parameters in x, each `[*batch, *shape]`: views."""
        _check_length(x, self.size)
        return [x[..., piece.at].reshape(*x.shape[:-1], *piece.shape) for piece in self.pieces]

    def join(self, parameters: Sequence[Tensor]) -> Float[Tensor, " *batch size"]:
        """The inverse of `split`: one vector x from all parameters, each `[*batch, *shape]`."""
        pairs = zip(parameters, self.pieces, strict=True)
        return torch.cat([p.reshape(*p.shape[: p.ndim - len(piece.shape)], -1) for p, piece in pairs], -1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], self.size))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-1], self.inner_size))

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        batch = z.shape[:-1]
        total = z.new_zeros(batch)
        for transform, shape, inner, at, inner_at in self.pieces:
            if not _is_identity(transform):
                part = transform.log_abs_det_jacobian(
                    z[..., inner_at].reshape(*batch, *inner), x[..., at].reshape(*batch, *shape)
                )
                total = total + part.reshape(*batch, -1).sum(-1)
        return total

    def _call(self, z: Tensor) -> Tensor:
        _check_length(z, self.inner_size)
        batch = z.shape[:-1]
        parts = []
        for transform, _, inner, _, at in self.pieces:
            part = z[..., at]
            if not _is_identity(transform):
                part = cast(Tensor, transform(part.reshape(*batch, *inner))).reshape(*batch, -1)
            parts.append(part)
        return torch.cat(parts, -1)

    def _inverse(self, x: Tensor) -> Tensor:
        parts = zip(self.split(x), self.pieces, strict=True)
        return torch.cat([cast(Tensor, p.transform.inv(x)).reshape(*x.shape[: x.ndim - len(p.shape)], p.inner.numel())
                          for x, p in parts], -1)  # fmt: skip

    def __repr__(self) -> str:
        return "Blocks(" + ", ".join(f"{piece.transform} {[*piece.shape]}" for piece in self.pieces) + ")"


class _BlockSupport(Constraint):
    event_dim = 1

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def check(self, value: Tensor) -> Tensor:
        batch = value.shape[:-1]
        checks = [
            inside(piece.transform.codomain, part.reshape(batch.numel(), *piece.shape)).view(batch)
            for part, piece in zip(self.blocks.split(value), self.blocks.pieces, strict=True)
        ]
        return torch.stack(checks).all(0)

    def __repr__(self) -> str:
        return repr(self.blocks)


def bijection_onto(support: Transform | Constraint | Sequence[Block]) -> Transform:
    """The bijection that a user means: the one given, that of a constraint, or that of blocks of a vector.

    Raises:
        ValueError: If there is none, or it does not start from all of space.
    """
    if isinstance(support, Constraint):
        return Support(support)
    if isinstance(support, type) and issubclass(support, Constraint):
        raise TypeError(f"constraints.{support.__name__.lstrip('_')} lacks its bounds: give constraints.interval(0, 1) "
                        "or constraints.greater_than(0).")  # fmt: skip
    if isinstance(support, Transform):
        if not support.bijective:
            raise ValueError(f"{support!r} is no bijection, so it carries no density over.")
        if not _is_real(support.domain):
            raise ValueError(f"{support!r} starts from {support.domain}; samplers walk over all of space, so that it "
                             "must start from real numbers.")  # fmt: skip
        return support
    if isinstance(support, Sequence) and not isinstance(support, str):
        return Blocks(support)
    raise TypeError("expected a Transform or a constraint of torch.distributions, or a list of blocks such as "
                    f"[(constraints.real, 2), (constraints.positive, 1)]; got {type(support).__name__}.")  # fmt: skip


# starting points ----------------------------------------------------------------------------------------------------


def inside(support: Constraint, x: Float[Tensor, " batch *event"]) -> Bool[Tensor, " batch"]:
    """Whether points lie inside a support: not on its boundary, where no finite z leads."""
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if isinstance(base, type(constraints.simplex)):
        # torch's tolerance for the sum, 1e-6, is below what float32 keeps in 100 entries
        tolerance = max(1e-6, 4 * x.shape[-1] * torch.finfo(x.dtype).eps)
        mask = (x > 0).all(-1) & ((x.sum(-1) - 1).abs() <= tolerance)
    else:
        mask = base.check(x)
    if (lower := getattr(base, "lower_bound", None)) is not None:
        mask = mask & (x > lower)
    if (upper := getattr(base, "upper_bound", None)) is not None:
        mask = mask & (x < upper)
    return mask.flatten(1).all(1) if mask.ndim > 1 else mask


def pull_back(transform: Transform, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *inner"]:
    """$z = T^{-1}(x)$ for starting points.

    Raises:
        ValueError: If some lie outside the support; the message names the constraint.
    """
    for name, support, part in _supports(transform, x):
        _refuse(~inside(support, part), part, f"{name} must lie inside {support}")
    z = cast(Tensor, transform.inv(x)).to(x.dtype)
    # the constraint may not tell all, as that of composed transforms, whose inverse moves a point to where it can
    back, centre = cast(Tensor, transform(z)), cast(Tensor, transform(torch.zeros_like(z)))
    tolerance = math.sqrt(torch.finfo(x.dtype).eps) * (_largest(x) + _largest(centre))
    _refuse(~(_largest(back - x) <= tolerance), x, f"x must be a value of {transform!r}")  # NaN compares false
    return z


def _supports(transform: Transform, x: Tensor) -> Iterator[tuple[str, Constraint, Tensor]]:
    if not isinstance(transform, Blocks):
        yield "x", getattr(transform, "codomain", constraints.real), x
        return
    for part, piece in zip(transform.split(x), transform.pieces, strict=True):
        yield f"x[:, {piece.at.start}:{piece.at.stop}]", piece.transform.codomain, part


def _largest(t: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain"]:
    return t.abs().flatten(1).amax(1) if t.ndim > 1 else t.abs()


def _refuse(outside: Bool[Tensor, " chain"], x: Tensor, must: str) -> None:
    if n := int(outside.sum()):
        first = int(outside.to(torch.uint8).argmax())
        value = [round(v, 4) for v in x[first].flatten().tolist()[:8]]
        raise ValueError(f"{must}; {n} of {len(x)} starting points do not, the first of them chain {first} at {value}"
                         + (", ..." if x[first].numel() > 8 else "") + ".")  # fmt: skip


def _check_length(x: Tensor, size: int) -> None:
    if x.shape[-1:] != (size,):
        raise ValueError(f"expected vectors of length {size}, all blocks together; got shape {list(x.shape)}.")


def _shape(shape: Shape) -> torch.Size:
    sizes = [shape] if isinstance(shape, Integral) else shape
    if not isinstance(sizes, Sequence) or not all(isinstance(n, Integral) and n > 0 for n in sizes):
        raise ValueError(f"a block's shape is a length or a tuple of lengths, () for a number; got {shape!r}.")
    return torch.Size(int(n) for n in sizes)


def _is_zero(bound: object) -> bool:
    return isinstance(bound, Real) and bound == 0


def _is_identity(transform: Transform) -> bool:
    part = transform.part if isinstance(transform, Support) else transform
    return isinstance(part, ComposeTransform) and not part.parts


def _is_real(domain: Constraint) -> bool:
    if isinstance(domain, constraints.independent):
        return _is_real(domain.base_constraint)
    if isinstance(domain, (constraints.cat, constraints.stack)):
        return all(map(_is_real, domain.cseq))
    return isinstance(domain, type(constraints.real))
