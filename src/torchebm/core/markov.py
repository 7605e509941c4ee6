"""The contract of a Markov transition, and the one loop that runs all of them."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from .adaptation import Tunable
from .checks import integer, warn_caller
from .compiled import Compilable
from .divergence import DivergenceWatch
from .interruption import Interruption, SamplingInterruptedWarning
from .model import evaluating
from .progress import progress_bar
from .random import normal_, normal_at_once, uniform_
from .recording import Recorder, TrajectoryFile, TrajectoryTensor
from .sampler import SamplerState
from .shapes import select, sum_event
from .starting import redrawn, starting_points, stuck
from .target import Target

__all__ = ["MarkovSampler", "Run"]

_REDRAWS = 100  # of starting points that nobody gave; Stan's figure

Observer = Callable[[int, Any, Any], None]  # of a transition's index, the state it led to, and its info
Notice = Callable[[int, Any], None]  # of how many transitions there were since the last, and the state they led to


class Run(NamedTuple):
    """All that a run yields; `sample` unpacks it to what was asked for."""

    x: Tensor
    """`[chain, *event]`: the last state of each chain."""
    trajectory: Tensor | None
    """`[chain, draw, *event]`."""
    diagnostics: dict[str, Tensor] | None
    """By name, each `[chain, draw]`; `mean` and `var` over chains are `[draw, *event]`."""
    state: SamplerState
    """To continue from."""


class MarkovSampler(Tunable, Compilable):
    """A sampler made of one transition. A subclass writes the kernel below; the loop is written once, here.

    | method | returns |
    |---|---|
    | `init(x, target, generator)` | a state: a NamedTuple of `x` and what the next step needs, leaves `[chain, ...]` |
    | `refresh(state, target)` | the state with its caches re-evaluated, for a target that has changed |
    | `noise(x, n)` | buffers for the randomness of n steps, a tuple of `[n, chain, ...]` |
    | `draw(out, generator)` | nothing; fills the buffers of ONE step: all the randomness that it uses |
    | `step(state, noise, target, *, temperature, **parameters)` | state and info; pure, and free of host syncs |

    Left out, `noise` gives one buffer, with a number for each of `x`, and `draw` fills the first buffer with standard
    normal numbers and the others with uniform ones.

    An info is a NamedTuple with `diverging` and, where proposals can be rejected, `acceptance_rate`, each `[chain]`.
    Parameters declared as `Scheduled` reach `step` by keyword.
    """

    can_reject = True
    """Whether a proposal that is not finite is rejected; without that, diverged chains call for a warning."""
    needs_gradient = True
    """Whether the kernel reads the target's gradient."""
    divergence_advice = "a smaller step_size"
    """What to change when chains diverge."""

    @abstractmethod
    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Any:
        """The first state."""

    @abstractmethod
    def refresh(self, state: Any, target: Target) -> Any:
        """The state under a changed target."""

    @abstractmethod
    def step(self, state: Any, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             **parameters: Any) -> tuple[Any, Any]:  # fmt: skip
        """One transition."""

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        """Buffers for the randomness of n steps: here a number for each of `x`."""
        return (x.new_empty(n, *x.shape),)

    def draw(self, out: tuple[Tensor, ...], generator: torch.Generator | None) -> None:
        """Fills the buffers of one step, the first with normal numbers, the others with uniform ones."""
        for buffer in out[:1]:
            normal_(buffer, generator)
        for buffer in out[1:]:
            uniform_(buffer, generator)

    def filling(self, noise: tuple[Tensor, ...]) -> Callable[[torch.Generator | None], object]:
        """What fills these buffers of n steps, again and again, with what `draw` gives them step by step."""
        if getattr(self.draw, "__func__", None) is MarkovSampler.draw and len(noise) == 1 and normal_at_once(noise[0]):
            return partial(normal_, noise[0])
        # without buffers there is nothing to fill, but a `draw` that may refuse its generator
        rows = list(zip(*(buffer.unbind(0) for buffer in noise), strict=True)) or [()]

        def fill(generator: torch.Generator | None) -> None:
            for row in rows:
                self.draw(row, generator)

        return fill

    def energy(self, state: Any, target: Target) -> Float[Tensor, " chain"]:
        """The energies of a state: cached where the kernel keeps them, evaluated otherwise."""
        cached = getattr(state, "energy", None)
        return target.energy(state.x) if cached is None else cached

    def whole(self, target: Target) -> Target:
        """What starting points are judged by: the target, with all of the data where a step sees a part."""
        return target

    # the loop ---------------------------------------------------------------------------------------------------------

    def advance(self, state: Any, start: int, n_steps: int, *, target: Target, generator: torch.Generator | None = None,
                temperature: float | Tensor = 1.0, parameters: Mapping[str, list[float]] | None = None,
                observe: Observer | None = None, notice: Notice | None = None,
                held: Tensor | None = None) -> Any:  # fmt: skip
        """The one loop: `n_steps` transitions from `state`, the first being number `start`.

        Noise is drawn as if step by step, in a fixed order, so that the stream does not depend on how a run is cut, nor
        on whether it is compiled.

        Args:
            state: From `init`, or an earlier `advance`.
            start: Number of the first transition, for the schedules.
            n_steps: Transitions.
            target: Energy and gradient.
            generator: Source of all randomness; PyTorch's default if left out.
            temperature: A number, or one a chain.
            parameters: Values of the scheduled parameters, `n_steps` each; those of the schedules if left out.
            observe: Called after each transition with its index, the state and the info; it looks and changes nothing,
                since a compiled run does not ask again whether sampler and model are as they were.
            notice: Called after each transition, or compiled block of them, with their number and the state; as above.
            held: `[chain]`, true for chains that stay where they are.

        Returns:
            The last state.
        """
        parameters = self.parameter_table(start, n_steps) if parameters is None else parameters
        done = 0
        if self.compiled is not None:
            self.check_compiled()
            self.prepare(state.x)
            state, done = self.compiled.advance(state, n_steps, target=target, generator=generator,
                                                temperature=temperature, parameters=parameters, observe=observe,
                                                notice=notice, held=held)  # fmt: skip
        noise = tuple(buffer[0] for buffer in self.noise(state.x, 1))
        for i in range(done, n_steps):
            self.draw(noise, generator)
            now = {name: values[i] for name, values in parameters.items()}
            new, info = self.step(state, noise, target, temperature=temperature, **now)
            state = new if held is None else select(~held, new, state)
            if observe is not None:
                observe(i, state, info)
            if notice is not None:
                notice(1, state)
        return state

    @torch.no_grad()
    def run(self, x: Tensor | None = None, dim: int | tuple[int, ...] | None = None, n_steps: int = 100,
            n_samples: int = 1, thin: int = 1, *, n_warmup: int = 0, reset_schedulers: bool = True,
            model_kwargs: dict | None = None, generator: torch.Generator | None = None, progress: bool = False,
            trajectory: bool = False, trajectory_out: str | Path | None = None, diagnostics: bool = False,
            state: SamplerState | None = None, interruptible: bool = False) -> Run:  # fmt: skip
        """`advance`, with what surrounds it: starting points, warm-up, thinning, recording, progress.

        Arguments are those of `sample`; all that there is to return comes back in one `Run`. Of an `interruptible` run
        that is what there was when Ctrl-C was pressed.
        """
        n_steps, n_warmup = integer("n_steps", n_steps), integer("n_warmup", n_warmup)
        thin = integer("thin", thin, at_least=1)
        if 0 < n_steps < thin:
            raise ValueError(f"thin={thin} keeps no draw of n_steps={n_steps}: thin must not exceed n_steps.")
        if trajectory and trajectory_out is not None:
            raise ValueError(
                "give return_trajectory=True or trajectory_out=, not both: a trajectory goes to one place."
            )
        if state is not None and not isinstance(state, SamplerState):
            raise TypeError(f"state must be what return_state=True returned, last; got {type(state).__name__}.")
        start = state.step if state is not None else 0 if reset_schedulers else self._step_count()
        n_draws, done = n_steps // thin, n_steps
        parameters = self.parameter_table(start, n_steps)
        model, transform = self.model.coordinates()
        to_user = (lambda z: z) if transform is None else lambda z: cast(Tensor, transform(z)).to(z.dtype)
        target = Target(model, model_kwargs, self.precision)
        if self.compiled is not None:
            self.check_compiled()
            target = self.compiled.wrap(target)

        def energy(state: Any) -> Tensor:
            """Of the density in the user's coordinates, where a volume may differ from the sampler's."""
            own = self.energy(state, target)
            if transform is None:
                return own
            return own + sum_event(transform.log_abs_det_jacobian(state.x, transform(state.x)))

        with evaluating(self.model):
            walked = None if state is None else state.x
            tries = _REDRAWS if x is None and state is None else 0
            x, z = starting_points(self, x, dim, n_samples, walked, generator)
            moves = n_steps + n_warmup > 0 and len(x) > 0
            lost = None
            for k in range(tries, -1, -1) if moves else ():
                lost = stuck(z, self.whole(target), self.needs_gradient, all_may_be=k > 0)
                if lost is None or k == 0:
                    break
                z = redrawn(z, lost, generator)
            held = None if self.can_reject else lost  # without a slope they could only become NaN
            kernel = self.init(z, target, generator) if state is None else self.refresh(state.kernel, target)
            store = None
            if trajectory:
                store = TrajectoryTensor(x, n_draws)
            elif trajectory_out is not None:
                store = TrajectoryFile(trajectory_out, x, n_draws)
            record = Recorder(x, n_draws, thin, store=store, diagnostics=diagnostics, to_user=to_user, held=held,
                              energy=energy, can_reject=self.can_reject)  # fmt: skip
            watch = DivergenceWatch(z, lost, n_warmup + n_steps)
            shown = progress_bar(progress, n_warmup + n_steps, type(self).__name__)
            with Interruption(interruptible) as interruption, shown as tick:
                always: list[Notice] = [] if self.can_reject else [watch]
                if progress:
                    always.append(self._progress(tick))
                observe = record if store is not None or diagnostics else None
                if moves:
                    options = {"target": target, "generator": generator, "held": held}
                    notice = _all(always + ([interruption.refuse] if interruptible else []))
                    kernel = self._tune(kernel, start, n_warmup, notice=notice, **options)
                    parameters = self.parameter_table(start, n_steps)  # as tuned
                    notice = _all(always + ([interruption] if interruptible else []))
                    try:
                        kernel = self.advance(kernel, start, n_steps, parameters=parameters, observe=observe,
                                              notice=notice, **options)  # fmt: skip
                    except KeyboardInterrupt:
                        if interruption.reached is None:
                            raise
                        done, kernel = interruption.reached
            last = to_user(kernel.x)
            result = Run(
                x=last.clone() if last is kernel.x else last,  # the state is for the sampler, x for the caller
                diagnostics=record.finish(parameters, done),
                trajectory=store.tensor if isinstance(store, TrajectoryTensor) else None,
                state=SamplerState(kernel, start + done),
            )
        for scheduler in self._distinct_schedulers():
            scheduler.step_count = start + done
        watch.report(self.divergence_advice)
        if done < n_steps:
            warn_caller(
                f"interrupted after {done} of {n_steps} transitions: what there is (draws: {done // thin}) is "
                "returned. To go on, ask for return_state=True and give it back as state=.",
                SamplingInterruptedWarning,
            )
        return result

    def sample(self, x: Float[Tensor, " chain *event"] | None = None, dim: int | tuple[int, ...] | None = None,
               n_steps: int = 100, n_samples: int = 1, thin: int = 1, return_trajectory: bool = False,
               return_diagnostics: bool = False, reset_schedulers: bool = True, *, n_warmup: int = 0,
               model_kwargs: dict | None = None, generator: torch.Generator | None = None, progress: bool = False,
               trajectory_out: str | Path | None = None, state: SamplerState | None = None,
               return_state: bool = False) -> Any:  # fmt: skip
        """Runs the chains and returns where they end, or the way they went.

        Args:
            x: Starting points, `[chain, *event]`; never modified. Left out, they are standard normal (in the
                coordinates that the sampler walks in, for a transformed model), and drawn again, up to 100 times,
                where the energy or its gradient is not finite.
            dim: Event shape, if `x` is left out and the model does not know it.
            n_steps: Transitions; the first uses each schedule's value at step 0.
            n_samples: Chains, if `x` is left out.
            thin: Draw k of a trajectory is the state after (k + 1) * thin transitions; n_steps // thin are kept.
            return_trajectory: Return `[chain, draw, *event]` rather than the last state.
            return_diagnostics: Return a dict as well: `energy`, `diverging` and, by sampler, `acceptance_rate`,
                `step_size`, each `[chain, draw]`; `mean` and `var` over chains, each `[draw, *event]`.
            reset_schedulers: Begin schedules at step 0; otherwise they go on where the last call left them.
            n_warmup: Transitions before the first that counts, at the schedules' first values; they are not returned.
                Samplers with a `target_acceptance` tune themselves in them, and stay as tuned: see `tuning`.
            model_kwargs: Keyword arguments for the model's `forward`, such as labels.
            generator: Source of all randomness; PyTorch's default generator if left out.
            progress: Show a progress bar.
            trajectory_out: Write the trajectory to this `.npy` or `.zarr` as it is made.
            state: Continue from the state that an earlier call returned; its step carries the schedules on.
            return_state: Return the state as well, last.

        Returns:
            `[chain, *event]` or `[chain, draw, *event]`, on the device and in the dtype of `x`; a tuple if diagnostics
            or the state were asked for.

        Note:
            Ctrl-C after the warm-up, if draws, diagnostics or the state were asked for, ends the run with the
            transition it is in: what there is is returned, with a `SamplingInterruptedWarning`, and the state continues
            it. A second Ctrl-C, and the first where only the last state was asked for, raises `KeyboardInterrupt`.

        Raises:
            ValueError: If every chain starts where energy or gradient is not finite, a chain starts outside the support
                of the model, or an argument makes no sense.
            TypeError: If `x` is not a tensor.
        """
        run = self.run(x, dim, n_steps, n_samples, thin, n_warmup=n_warmup, reset_schedulers=reset_schedulers,
                       model_kwargs=model_kwargs, generator=generator, progress=progress, trajectory=return_trajectory,
                       trajectory_out=trajectory_out, diagnostics=return_diagnostics, state=state,
                       interruptible=return_trajectory or trajectory_out is not None or return_diagnostics
                       or return_state)  # fmt: skip
        parts = [run.trajectory if return_trajectory else run.x]
        parts += [run.diagnostics] if return_diagnostics else []
        parts += [run.state] if return_state else []
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _step_count(self) -> int:
        return max((scheduler.step_count for scheduler in self.schedulers.values()), default=0)


def _all(notices: list[Notice]) -> Notice | None:
    """One function that calls each, without a detour where there is one or none."""
    if len(notices) < 2:
        return notices[0] if notices else None

    def notice(n: int, state: Any) -> None:
        for each in notices:
            each(n, state)

    return notice
