"""Many chains, some at a time."""

import pytest
import torch

from torchebm.core import HarmonicModel
from torchebm.samplers import batch_sample_chain


@pytest.mark.parametrize(("n_samples", "sizes"), [(25, [10, 10, 5]), (20, [10, 10]), (3, [3]), (0, [0])])
def test_batches(case, n_samples, sizes, seeded):
    sampler, one, two = case.make(HarmonicModel()), seeded(), seeded()
    x = batch_sample_chain(sampler, dim=2, n_steps=5, n_samples=n_samples, batch_size=10, generator=one)
    parts = [sampler.sample_chain(dim=2, n_steps=5, n_samples=size, generator=two) for size in sizes]
    assert torch.equal(x, torch.cat(parts))


def test_any_event_shape(case, generator):
    sampler = case.make(HarmonicModel())
    assert batch_sample_chain(
        sampler, dim=(1, 4, 4), n_steps=2, n_samples=5, batch_size=2, generator=generator
    ).shape == (5, 1, 4, 4)
    sampler = case.make(HarmonicModel(dim=3))
    assert batch_sample_chain(sampler, n_steps=2, n_samples=5, batch_size=2, generator=generator).shape == (5, 3)


@pytest.mark.parametrize("what", ["trajectory", "diagnostics", "state"])
def test_only_the_last_states_are_returned(case, what):
    with pytest.raises(ValueError, match="batch_sample_chain returns the last states alone"):
        batch_sample_chain(case.make(HarmonicModel()), dim=2, n_steps=2, **{f"return_{what}": True})


@pytest.mark.parametrize("options", [{"n_samples": -1}, {"batch_size": 0}, {"batch_size": True}])
def test_refused(case, options):
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(options))} must be"):
        batch_sample_chain(case.make(HarmonicModel()), dim=2, n_steps=2, **options)
