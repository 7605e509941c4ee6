"""Trainable energies: fully connected, convolutional and residual networks. Smooth, and without batch statistics."""

from .convolutional import ConvEnergy
from .mlp import MLP, MLPEnergy
from .residual import ResNetEnergy

__all__ = ["MLP", "ConvEnergy", "MLPEnergy", "ResNetEnergy"]
