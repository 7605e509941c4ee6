import matplotlib
import pytest
import torch

from torchebm.diagnostics.conversion import import_arviz


@pytest.fixture(autouse=True)
def headless():
    """No window is opened and no figure outlives its test."""
    matplotlib.use("Agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def az():
    return import_arviz()


@pytest.fixture
def normal():
    """`normal(*shape)`: independent draws, the same for the same shape, so that every figure here is a fixed number."""
    return lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
