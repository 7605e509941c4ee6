"""ebmkit's trainer, as its documentation uses it."""

import torch
from cells import TRAINING_SETTINGS as S
from cells import TrainingCell
from ebm.buffer import ReplayBuffer
from ebm.energy import EnergyModel
from ebm.losses import ContrastiveDivergence
from ebm.samplers import LangevinDynamics
from ebm.training import Trainer
from protocol import Prepared, serve
from training_data import data, network


def prepare(cell: TrainingCell) -> Prepared:
    torch.manual_seed(0)
    sampler = LangevinDynamics(step_size=S["step_size"], steps=cell.k_steps)
    buffer = ReplayBuffer(int(S["buffer_size"]), (cell.dim,), reinit_prob=S["fresh"])
    loss_fn = ContrastiveDivergence(sampler, buffer, energy_reg=S["energy_weight"])
    trainer = Trainer(EnergyModel(network(cell)), loss_fn, lr=S["learning_rate"])
    x = data(cell)
    return lambda n_steps: trainer.fit(x, steps=n_steps, batch_size=cell.batch, verbose=False)


serve(prepare, TrainingCell)
