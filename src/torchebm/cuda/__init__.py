"""Fused accelerator kernels, each with a plain-PyTorch twin."""

from .langevin import langevin_step_cuda

__all__ = ["langevin_step_cuda"]
