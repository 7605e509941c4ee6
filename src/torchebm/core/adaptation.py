"""The contract of what tunes a sampler while it warms up, and a sampler's side of it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from .sampler import BaseSampler, SamplerState, Scheduled
from .schedulers import ConstantScheduler
from .target import Target

__all__ = ["Adaptation", "Setting", "Tunable"]


class Adaptation(Protocol):
    """Tunes a sampler's parameters during its warm-up, from outside the kernel.

    The loop calls `begin` once, `update` after each transition, `finish` after the last, or `abandon` if a transition
    raised. What is tuned is shared by all chains. Between two transitions of one window `update` works on tensors and
    reads none of them on the host, unless the sampler says otherwise.
    """

    def begin(self, state: Any, target: Target, generator: torch.Generator | None) -> tuple[Any, dict[str, Any]]:
        """The state to start from, and parameters for the first transition, by the keywords that `step` takes."""
        ...

    def update(self, i: int, state: Any, info: Any) -> tuple[Any, dict[str, Any]]:
        """State and parameters for transition `i + 1`, after transition `i`, counted from 0, led to `state` and told
        `info`."""
        ...

    def finish(self) -> None:
        """Writes what was found to the sampler, and a summary to its `tuning`."""
        ...

    def abandon(self) -> None:
        """Leaves the sampler as it was before `begin`."""
        ...


class Setting:
    """A sampler's parameter that follows no schedule: checked whenever it is assigned, and saved with the sampler.

    It adds its name to the `settings` of its class. The value is an attribute of the instance, so that reading it costs
    nothing.

    Args:
        check: `check(value)` returns what is kept, or raises.
    """

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check

    def __set_name__(self, owner: "type[Tunable]", name: str) -> None:
        self.name = name
        owner.settings = tuple(dict.fromkeys([*owner.settings, name]))

    def __set__(self, sampler: "Tunable", value: Any) -> None:
        sampler.__dict__[self.name] = self.check(value)


class Tunable(BaseSampler):
    """What `MarkovSampler` knows of its tuning."""

    advance: Callable[..., Any]
    run: Callable[..., Any]

    tuned_parameter: str | None = None
    """The scheduled parameter that a warm-up tunes, unless the user put it on a schedule."""
    target_acceptance: float | None = None
    """The acceptance rate that it is tuned to; `None` for a warm-up that leaves the parameter as it is."""
    settings: tuple[str, ...] = ("target_acceptance",)
    """Parameters that follow no schedule, and are saved."""
    constructed: tuple[str, ...] = ()
    """Parameters that are fixed at construction: saved too, and what is loaded must agree with them."""
    tuning: dict[str, Any] | None = None
    """What the last warm-up found: the parameters, the kind of mass, the acceptance rate reached, and its length."""
    untuned: Mapping[str, tuple[Any, Any]] = {}
    """For each parameter that a warm-up wrote, what it wrote and what the user had given."""

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        """What tunes the sampler during a warm-up of `n_warmup` transitions; `None` for nothing."""
        return None

    def warm_up(self, x: Float[Tensor, " chain *event"] | None = None, n_steps: int = 1000,
                **options: Any) -> SamplerState:  # fmt: skip
        """Tunes the sampler, and takes the chains to where they may be sampled from.

        Args:
            x: Starting points, as for `sample`; left out, they are standard normal.
            n_steps: Transitions.
            **options: As for `sample`: `n_samples`, `dim`, `generator`, `model_kwargs`, `progress`, `state`.

        Returns:
            What `sample(state=...)` continues from. What was found is in `tuning`, and stays in force.
        """
        return self.run(x, n_steps=0, n_warmup=n_steps, **options).state

    def state_dict(self) -> dict[str, Any]:
        """What makes the kernel, but for the model and schedules, and the report of a warm-up: numbers, strings and
        tensors, under the name of the class."""
        parameters = {n: s.start_value for n, s in self.schedulers.items() if isinstance(s, ConstantScheduler)}
        optional = (n for n, s in vars(type(self)).items() if isinstance(s, Scheduled) and s.optional)
        return {
            "sampler": type(self).__name__,
            "parameters": parameters | {name: None for name in optional if name not in self.schedulers},
            "settings": {name: getattr(self, name) for name in (*self.settings, *self.constructed)},
            **({"mass": self.mass} if hasattr(self, "mass") else {}),
            "tuning": None if self.tuning is None else dict(self.tuning),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict()` of a sampler of this kind returned.

        Parameters that were on a schedule are not in it: here they must be on one as well, and stay on it.

        Raises:
            ValueError: If it comes from another kind of sampler, or does not hold what this one needs.
        """
        self._check_saved(state)
        for name, value in state["parameters"].items():
            setattr(self, name, value) if value is None else self.register_scheduler(name, value)
        for name in self.settings:
            setattr(self, name, state["settings"][name])
        if "mass" in state:
            self.mass = state["mass"]
        self.tuning, self.untuned = state["tuning"], {}

    def _check_saved(self, state: Mapping[str, Any]) -> None:
        """Refuses a state that is not one of this sampler's, before anything is written."""
        own, name = self.state_dict(), type(self).__name__
        if state.get("sampler", name) != name:
            raise ValueError(
                f"the saved state of another kind of sampler: this is a {name}, that was of a {state['sampler']}."
            )
        agree("the saved state", state, own)
        agree("settings in the saved state", state["settings"], own["settings"])
        agree("parameters in the saved state", state["parameters"], own["parameters"], may_have=self.schedulers)
        for fixed in self.constructed:
            if state["settings"][fixed] != own["settings"][fixed]:
                raise ValueError(
                    f"the state was saved with {fixed}={state['settings'][fixed]}, which is fixed at construction: "
                    f"this {name} has {fixed}={own['settings'][fixed]}."
                )

    def _tune(self, state: Any, start: int, n_warmup: int, *, target: Target, generator: torch.Generator | None,
                 notice: Callable[[int, Any], None] | None, held: Tensor | None) -> Any:  # fmt: skip
        """Transitions at the schedules' first values, except for what an adaptation tunes."""
        if n_warmup == 0:
            return state
        at_first = self.parameter_table(start, 1)
        options: dict[str, Any] = {"target": target, "generator": generator, "held": held}
        adaptation = self.adaptation(n_warmup)
        if adaptation is None:
            table = {name: values * n_warmup for name, values in at_first.items()}
            return self.advance(state, start, n_warmup, parameters=table, notice=notice, **options)
        try:
            state, now = adaptation.begin(state, target, generator)
            seen: list[Any] = []
            for i in range(n_warmup):
                table = at_first | {name: [value] for name, value in now.items()}
                state = self.advance(state, start, 1, parameters=table, notice=notice,
                                     observe=lambda i, state, info: seen.append(info), **options)  # fmt: skip
                state, now = adaptation.update(i, state, seen.pop())
        except BaseException:
            adaptation.abandon()
            raise
        adaptation.finish()
        return state


def agree(what: str, saved: Any, own: Mapping[str, Any], may_have: Mapping[str, Any] | None = None) -> None:
    """Refuses saved names that are missing or unknown.

    Args:
        what: For the message.
        saved: A mapping, if all is well.
        own: What must be there.
        may_have: What may be there besides.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"{what} must be a mapping; got {type(saved).__name__}.")
    missing, unknown = sorted(set(own) - set(saved)), sorted(set(saved) - set(own) - set(may_have or {}))
    if missing or unknown:
        found = [f"no {', '.join(missing)}"] if missing else []
        found += [f"{', '.join(map(str, unknown))}, unknown here"] if unknown else []
        raise ValueError(f"{what}: {'; '.join(found)}. It comes from another kind of sampler, or another version.")
