"""All that the rest of a run depends on: taken from a trainer, and given back to it."""

from typing import TYPE_CHECKING

import torch

from .checkpoint import Checkpoint, pack_optimizer, unpack_optimizer

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["State", "copied", "packed", "unpack"]

State = Checkpoint


def packed(trainer: "Trainer") -> State:
    """The state of a run as it is now. Its tensors are the run's own: copy them, or write them, before it goes on."""
    loss_fn, ema = trainer.loss_fn, trainer.ema
    optimizer_tensors, optimizer_rest = pack_optimizer(trainer.optimizer)
    tensors = {
        "model": trainer.model.state_dict(),
        "loss": loss_fn.state_dict(),
        "optimizer": optimizer_tensors,
        "random": {"chains": trainer.generator.get_state(), "global": torch.get_rng_state()},
        "window": trainer.window.state_dict(),
    }
    if ema is not None:
        tensors["ema"] = ema.model.state_dict()
    negatives = getattr(loss_fn, "last_negatives", None)
    if trainer.window.n and negatives is not None:  # a window that is open is closed with a look at them
        tensors["last"] = {"negatives": negatives}
    if trainer.device.type == "cuda":
        tensors["random"]["global-device"] = torch.cuda.get_rng_state(trainer.device)
    control = trainer.step_size_control
    schedulers = getattr(loss_fn.sampler, "schedulers", {})
    info = {
        "seed": trainer.seed,
        "recovery": trainer.recovery.state_dict(),
        "records": len(trainer.records.all),
        "seconds": trainer.seconds,
        "in_window": trainer.window.n,
        "ema_updates": None if ema is None else ema.n_updates,
        "optimizer": optimizer_rest,
        "step_size_control": None if control is None else control.state_dict(),
        "schedulers": {name: scheduler.state_dict() for name, scheduler in schedulers.items()},
    }
    return State(trainer.step, tensors, info)


def copied(state: State) -> State:
    """The same state in tensors of its own."""
    tensors = {file: {name: t.detach().clone() for name, t in group.items()} for file, group in state.tensors.items()}
    return State(state.step, tensors, state.info)


def unpack(trainer: "Trainer", state: State) -> None:
    """Returns a run to a state, but for its attempts and remedies, which only grow."""
    tensors, info, loss_fn = state.tensors, state.info, trainer.loss_fn
    trainer.model.load_state_dict(tensors["model"])
    loss_fn.load_state_dict(tensors["loss"])
    unpack_optimizer(trainer.optimizer, tensors["optimizer"], info["optimizer"])
    if trainer.ema is not None:
        trainer.ema.model.load_state_dict(tensors["ema"])
        trainer.ema.n_updates = info["ema_updates"]
    if trainer.step_size_control is not None:
        trainer.step_size_control.load_state_dict(info["step_size_control"])
    for name, counter in info["schedulers"].items():
        loss_fn.sampler.schedulers[name].load_state_dict(counter)
    trainer.generator.set_state(tensors["random"]["chains"].cpu())
    torch.set_rng_state(tensors["random"]["global"].cpu())
    if "global-device" in tensors["random"]:
        torch.cuda.set_rng_state(tensors["random"]["global-device"].cpu(), trainer.device)
    trainer.window.load(tensors["window"], info["in_window"])
    if "last" in tensors:
        loss_fn.last_negatives = tensors["last"]["negatives"]
    trainer.seconds, trainer.step = info["seconds"], state.step
    trainer.last_batch = None
