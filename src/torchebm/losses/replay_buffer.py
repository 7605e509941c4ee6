"""Persistent chains."""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchebm.core.checks import integer, number
from torchebm.core.random import randint, randn, randperm, uniform

__all__ = ["FreshChains", "ReplayBuffer"]

FreshChains = Literal["uniform", "gaussian", "data"]


class ReplayBuffer(nn.Module):
    """Chains that persist between updates: drawn without replacement, written back to the slots they came from.

    So every slot is one lineage: with `new_sample_ratio=0`, 1,024 chains are 1,024 lineages after any number of
    updates. The buffer is empty until the first `write`; its shape is that of the data it first sees, and changed data
    is refused. `draw` alone changes nothing. The buffer is saved in `state_dict()`, and a new instance loads it.

    Args:
        size: Slots.
        fresh: Where chains begin: `"uniform"` in the data's box, `"gaussian"` with the data's mean and standard
            deviation, or at `"data"` itself.
        widen: By how much the uniform box is wider than the data's, as a fraction of its width.

    Example:
        >>> buffer = ReplayBuffer(100)
        >>> slots, chains = buffer.draw(16, like=torch.randn(32, 2))
        >>> buffer.write(slots, chains + 1)
        >>> torch.equal(buffer.chains[slots], chains + 1)
        True
    """

    chains: Tensor
    """`[size, *event]`, or empty before the first write."""
    ages: Tensor
    """`[size]`: how often each chain has been written back since it began, or empty before the first write."""

    def __init__(self, size: int = 10_000, fresh: FreshChains = "uniform", widen: float = 0.5) -> None:
        super().__init__()
        self.size = integer("size", size, at_least=1)
        if fresh not in get_args(FreshChains):
            raise ValueError(f"fresh must be one of {', '.join(map(repr, get_args(FreshChains)))}; got {fresh!r}.")
        self.fresh = fresh
        self.widen = number("widen", widen, at_least=0.0)
        self.register_buffer("chains", torch.empty(0))
        self.register_buffer("ages", torch.empty(0, dtype=torch.int64))
        self._begun: Tensor | None = None  # what the first draw began, until a write makes it the buffer's
        self._renewed: tuple[Tensor, int] | None = None  # the slots of the last draw, and how many begin anew

    def draw(self, n: int, like: Float[Tensor, " batch *event"], new_sample_ratio: float = 0.0, *,
             generator: torch.Generator | None = None
             ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n *event"]]:  # fmt: skip
        """Takes `n` chains out, some of them begun anew.

        Args:
            n: Chains to take; at most `size`, since none is taken twice.
            like: A batch of data, for shape, dtype, device, and where fresh chains begin.
            new_sample_ratio: Fraction of the `n` that begins anew, in their slots; on average, where that is no whole
                number.
            generator: Source of randomness.

        Returns:
            The slots, and a copy of the chains in them.
        """
        if n > self.size:
            raise ValueError(
                f"{n} chains asked of a buffer of {self.size}: raise buffer_size, or lower the batch size."
            )
        pool = self.chains
        if pool.numel() == 0:
            pool = self._begun = self.begin(self.size, like, generator=generator)
        if pool.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"the buffer holds chains of shape {list(pool.shape[1:])}, the data has {list(like.shape[1:])}: "
                "one loss serves one kind of data; make a new one."
            )
        slots = randperm(self.size, generator=generator, device=like.device)[:n]
        chains, n_new = pool[slots.to(pool.device)].to(like), 0
        if new_sample_ratio:
            n_new = int(new_sample_ratio * n + float(uniform((), generator=generator, device=like.device)))
            chains[:n_new] = self.begin(n_new, like, generator=generator)  # the permutation is random, so these are too
        self._renewed = slots, n_new
        return slots, chains

    def write(self, slots: Int[Tensor, " n"], chains: Float[Tensor, " n *event"]) -> None:
        """Puts chains back where they came from."""
        if self.chains.numel() == 0 and self._begun is not None:
            self.chains = self._begun
        self._begun = None
        self.chains = self.chains.to(chains.device)  # after a load the buffer may lie elsewhere than the data
        self.ages = self._ages_on(chains.device)
        if self._renewed is not None and self._renewed[0] is slots:
            self.ages[slots[: self._renewed[1]]] = 0
        self._renewed = None
        self.chains[slots] = chains.detach().to(self.chains)
        self.ages[slots] += 1

    @property
    def mean_age(self) -> Float[Tensor, ""]:
        """How often a chain has been written back since it began, in the mean over the slots."""
        return self._ages_on(self.chains.device).float().mean()

    def _ages_on(self, device: torch.device) -> Tensor:
        if self.ages.numel() == 0:
            return torch.zeros(self.size, dtype=torch.int64, device=device)
        return self.ages.to(device)

    def begin(
        self, n: int, like: Float[Tensor, " batch *event"], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """`n` fresh chains, `[n, *event]`, for data such as `like`."""
        shape, options = (n, *like.shape[1:]), {"dtype": like.dtype, "device": like.device}
        if self.fresh == "data":
            return like[randint(len(like), (n,), generator=generator, device=like.device)].clone()
        if self.fresh == "gaussian":
            return like.mean(0) + like.std(0, correction=0) * randn(shape, generator=generator, **options)
        low, high = like.amin(0), like.amax(0)
        width = (high - low) * (1 + self.widen)
        return (low + high - width) / 2 + width * uniform(shape, generator=generator, **options)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "chains")
        if saved is not None and (saved.shape, saved.dtype) != (self.chains.shape, self.chains.dtype):
            if saved.numel() and len(saved) != self.size:
                raise ValueError(
                    f"the saved buffer has {len(saved)} chains, this one {self.size}: give both one buffer_size."
                )
            self.chains = torch.empty_like(saved)  # what is in a new buffer depends on the data it first sees
            self._begun = None
        ages = state_dict.get(prefix + "ages")
        if ages is not None and ages.shape != self.ages.shape:
            self.ages = torch.empty_like(ages)
        self._renewed = None
        super()._load_from_state_dict(state_dict, prefix, *args)
