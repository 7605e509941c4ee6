import matplotlib
import pytest
import torch


@pytest.fixture(autouse=True)
def headless():
    """No window is opened and no figure outlives its test."""
    matplotlib.use("Agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def ax():
    """Axes that pyplot does not know, drawn at the end: much of what can go wrong happens only then."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    yield figure.add_subplot()
    figure.canvas.draw()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
