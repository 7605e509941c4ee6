"""Fused accelerator kernels, each with a plain-PyTorch twin."""

from .elementwise import register_elementwise
from .langevin import CUDALangevinDynamics, langevin_step_cuda
from .philox import philox, philox_normal_

__all__ = ["CUDALangevinDynamics", "langevin_step_cuda", "philox", "philox_normal_", "register_elementwise"]
