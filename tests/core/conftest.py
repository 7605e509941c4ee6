"""What tests of compiled functions share."""

import pytest
import torch

from torchebm.core.inductor import inductor_pass


@pytest.fixture
def through_inductor():
    """Compiles a function, with what is done to graphs before."""

    def compiled(function):
        torch._dynamo.reset()  # it gives up on a function that it has met in eight shapes
        options = {"post_grad_custom_pre_pass": inductor_pass()}
        return torch.compile(function, fullgraph=True, dynamic=False, options=options)

    return compiled
