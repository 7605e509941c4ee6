"""Trainable energies: fully connected, convolutional and residual networks. Smooth, and without batch statistics."""

from .convolutional import ConvEnergy
from .fourier import FourierEnergy
from .joint import JointEnergyModel
from .mlp import MLP, MLPEnergy
from .noise_conditional import NoiseConditionalEnergy
from .residual import ResNetEnergy
from .strided import StridedNetwork
from .wide_residual import WideResidualNetwork

__all__ = [
    "MLP",
    "ConvEnergy",
    "FourierEnergy",
    "JointEnergyModel",
    "MLPEnergy",
    "NoiseConditionalEnergy",
    "ResNetEnergy",
    "StridedNetwork",
    "WideResidualNetwork",
]
