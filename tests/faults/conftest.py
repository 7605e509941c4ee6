"""The stream that tests of faults draw from where no generator is given."""

import pytest
import torch


@pytest.fixture(autouse=True)
def networks_are_the_same_each_time():
    """What is drawn without a generator, as the weights of networks, is drawn from a stream that begins here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
