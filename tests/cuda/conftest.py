"""Where the kernels run in tests: on an accelerator, or, where there is none, in Triton's interpreter."""

import importlib

import pytest
import torch

from torchebm.cuda import kernels


@pytest.fixture(scope="module")
def device():
    """The device that the kernels run on, for as long as a file's tests last."""
    # interpreters before 3.7 fail with NumPy 2.4
    pytest.importorskip("triton", minversion=None if torch.cuda.is_available() else "3.7")
    if torch.cuda.is_available():
        yield "cuda"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # it is read when a kernel is decorated
        importlib.reload(kernels)
        yield "cpu"
    importlib.reload(kernels)


@pytest.fixture
def points(device):
    """`points(*shape)`: standard normal starting points, the same each time."""

    def make(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)

    return make


@pytest.fixture
def seeded_on(device):
    """`seeded_on(key)`: a fresh generator where the kernels run."""
    return lambda key=0: torch.Generator(device).manual_seed(key)
