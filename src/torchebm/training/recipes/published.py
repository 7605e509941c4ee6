"""Published recipes of Langevin chains: `mnist`, `igebm`, `short-run`, `convergent`, `convergent-images`."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from torchebm.core import BaseModel
from torchebm.datasets import Data

from .base import Kind
from .langevin import LangevinRecipe, LangevinSettings, Network, NetworkSettings, PublishedSettings, ReplaySettings

__all__ = ["Convergent", "ConvergentImages", "Igebm", "Mnist", "ShortRun"]


@dataclass(frozen=True)
class Mnist(LangevinRecipe):
    """Small grey images by a small convolutional network, on two CPU cores or on any accelerator.

    Differs from its source in three small ways: a step's noise is added after its gradient, not before; chains are
    drawn without replacement and go back to their slots, where the source keeps a queue; noisy data are not clipped.
    """

    name: ClassVar = "mnist"
    source: ClassVar = (
        "Lippe, UvA Deep Learning Tutorials 8, Deep_Energy_Models.ipynb, https://uvadlc-notebooks.readthedocs.io"
    )
    purpose: ClassVar = "short-run generator"
    figures: ClassVar = (
        "28x28: 0.6 s an update and 0.9 GB on one core, so a night for all 28,080; samples not judged here"
    )
    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    image_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("strided", (16, 32, 64, 64))

    sampler: LangevinSettings = LangevinSettings(n_steps=256, step_size=10.0, noise=0.005, gradient_clip=0.03,
                                                 clamp=True)  # fmt: skip
    loss: ReplaySettings = ReplaySettings(k_steps=60, buffer_size=8192, new_sample_ratio=0.05, energy_reg_weight=0.2,
                                          data_noise=0.005)  # fmt: skip
    training: PublishedSettings = PublishedSettings(n_steps=28_080, batch_size=128, learning_rate=1e-4, decay=0.97,
                                                    decay_every=468, grad_clip_norm=0.1)  # fmt: skip


@dataclass(frozen=True)
class Igebm(LangevinRecipe):
    """Natural images of the size of CIFAR-10 by a residual network with spectral normalisation, on an accelerator.

    The source's network has blocks of 128 and 256 channels and leaky rectifiers; here are six blocks of 128 with SiLU.
    """

    name: ClassVar = "igebm"
    source: ClassVar = (
        "Du & Mordatch (2019), https://arxiv.org/abs/1903.08689; openai/ebm_code_release, unconditional CIFAR-10"
    )
    purpose: ClassVar = "short-run generator"
    figures: ClassVar = "published, for 32x32 CIFAR-10: Frechet distance 40.6 with one network; not repeated here"
    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    image_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("residual", (128,) * 6)

    model: NetworkSettings = NetworkSettings(spectral_norm=True, box=(0.0, 1.0))
    sampler: LangevinSettings = LangevinSettings(n_steps=60, step_size=10.0, noise=0.005, gradient_clip=0.01,
                                                 clamp=True)  # fmt: skip
    loss: ReplaySettings = ReplaySettings(k_steps=60, buffer_size=10_000, new_sample_ratio=0.05, energy_reg_weight=2.0)
    training: PublishedSettings = PublishedSettings(n_steps=100_000, batch_size=128, learning_rate=3e-4)


@dataclass(frozen=True)
class ShortRun(LangevinRecipe):
    """A generator of a fixed number of steps from noise, without memory: what it makes is the chain, not the density.

    Samples are good after as many steps as in training, and not after more: that is what the source is about.
    """

    name: ClassVar = "short-run"
    source: ClassVar = (
        "Nijkamp et al. (2019), https://arxiv.org/abs/1904.09770; point0bar1/ebm-anatomy, gmm_nonconvergent.json"
    )
    purpose: ClassVar = "short-run generator"
    figures: ClassVar = "points in the plane: 0.03 s an update on one core, 40 minutes in all; samples not judged here"
    kinds: ClassVar[tuple[Kind, ...]] = ("planar", "table", "image")
    image_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("convolutional", (32, 64, 128))
    table_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("dense", (32, 64, 64, 64))

    model: NetworkSettings = NetworkSettings(leak=0.05)
    sampler: LangevinSettings = LangevinSettings(n_steps=100, step_size=1.0, noise=0.01)
    loss: ReplaySettings = ReplaySettings(k_steps=100, buffer_size=100, new_sample_ratio=1.0)
    training: PublishedSettings = PublishedSettings(n_steps=100_000, batch_size=100, learning_rate=1e-4,
                                                    betas=(0.9, 0.999))  # fmt: skip


@dataclass(frozen=True)
class Convergent(LangevinRecipe):
    r"""A density by long persistent chains and plain gradient descent, without any regulariser.

    The source leaves out the factor of the gradient in its chains, so that its energy is $\tfrac{2}{\varepsilon^2} f$
    with a network f. Here the energy has that factor, and the chains are at temperature 1: $\eta = \varepsilon^2 / 2$
    and $\sigma = \varepsilon$. The learning rate counts in units of $\eta$, as there.
    """

    name: ClassVar = "convergent"
    source: ClassVar = (
        "Nijkamp et al. (2020), https://arxiv.org/abs/1903.12370; point0bar1/ebm-anatomy, gmm_convergent.json"
    )
    purpose: ClassVar = "density"
    figures: ClassVar = "points in the plane: 0.16 s an update on one core, 9 hours in all; as published, it converges"
    kinds: ClassVar[tuple[Kind, ...]] = ("planar", "table")
    table_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("dense", (32, 64, 64, 64))

    model: NetworkSettings = NetworkSettings(leak=0.05)
    sampler: LangevinSettings = LangevinSettings(n_steps=5000, step_size=0.125**2 / 2, noise=0.125, start="uniform")
    loss: ReplaySettings = ReplaySettings(k_steps=500, buffer_size=10_000, new_sample_ratio=0.0)
    training: PublishedSettings = PublishedSettings(n_steps=200_000, batch_size=100, optimiser="sgd",
                                                    learning_rate=0.1)  # fmt: skip

    def fitted(self, data: Data) -> Self:
        if abs(self.temperature - 1) > 1e-6:
            raise ValueError(
                f"{self.name!r} is a density, and its chains are at temperature 1: noise must be sqrt(2 step_size) = "
                f"{(2 * self.sampler.step_size) ** 0.5:.6g}; got {self.sampler.noise:g}."
            )
        return super().fitted(data)

    def build_energy(self, event_shape: torch.Size) -> BaseModel:
        return (1 / self.sampler.step_size) * super().build_energy(event_shape)

    @property
    def learning_rate(self) -> float:
        return self.training.learning_rate * self.sampler.step_size


@dataclass(frozen=True)
class ConvergentImages(Convergent):
    """As `convergent`, with the smaller steps that images need, and noise on the data to match.

    The source has images of 32 and a network with attention; here is its plain convolutional network.
    """

    name: ClassVar = "convergent-images"
    source: ClassVar = (
        "Nijkamp et al. (2020), https://arxiv.org/abs/1903.12370; point0bar1/ebm-anatomy, mnist_convergent.json"
    )
    figures: ClassVar = "8x8: 3.6 s an update on one core, so made for an accelerator; as published, it converges"
    kinds: ClassVar[tuple[Kind, ...]] = ("image",)
    image_network: ClassVar[tuple[Network, tuple[int, ...]]] = ("convolutional", (32, 64, 128))

    sampler: LangevinSettings = LangevinSettings(n_steps=5000, step_size=0.0075**2 / 2, noise=0.0075)
    loss: ReplaySettings = ReplaySettings(k_steps=500, buffer_size=10_000, new_sample_ratio=0.0, data_noise=0.015)
    training: PublishedSettings = PublishedSettings(n_steps=100_000, batch_size=100, optimiser="sgd",
                                                    learning_rate=0.01)  # fmt: skip
