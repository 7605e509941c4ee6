"""This library's trainer, its sampler eager or compiled: `python training_ours.py eager|compiled`."""

import sys

from cells import TRAINING_SETTINGS as S
from cells import TrainingCell
from protocol import Prepared, serve
from training_data import data, network

from torchebm.core import EnergyModel
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import LangevinDynamics
from torchebm.training import Trainer


def prepare(cell: TrainingCell) -> Prepared:
    model, x = EnergyModel(network(cell)), data(cell)
    sampler = LangevinDynamics(model, step_size=S["step_size"])
    if sys.argv[1] == "compiled":
        sampler.compile()
    loss_fn = ContrastiveDivergence(
        model,
        sampler,
        k_steps=cell.k_steps,
        persistent=True,
        buffer_size=int(S["buffer_size"]),
        new_sample_ratio=S["fresh"],
        energy_reg_weight=S["energy_weight"],
        fresh_chains="gaussian",
    )
    trainer = Trainer(loss_fn, learning_rate=S["learning_rate"], guards=())  # going back is not what is timed
    return lambda n_steps: trainer.fit(x, trainer.step + n_steps, cell.batch, progress=False)


serve(prepare, TrainingCell)
