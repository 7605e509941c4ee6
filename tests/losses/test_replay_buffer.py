"""Persistent chains: lineages, draws without replacement, stated starts, and a state that comes back."""

import math

import pytest
import torch

from torchebm.losses import ContrastiveDivergence, ReplayBuffer

F64 = torch.float64


def filled(size, event=(), **options):
    """A buffer whose chains are numbered by their slots."""
    buffer = ReplayBuffer(size, **options)
    buffer.chains = torch.arange(size, dtype=F64).reshape(-1, *[1] * len(event)).expand(size, *event).clone()
    return buffer


def update(buffer, n, generator, **options):
    """One update of a sampler that moves nothing."""
    slots, chains = buffer.draw(n, buffer.chains[:2], generator=generator, **options)
    buffer.write(slots, chains)
    return slots, chains


def test_lineages_survive_any_number_of_updates(seeded):
    """1,024 chains are 1,024 lineages after 20,000 updates of 64."""
    buffer, generator = filled(1024), seeded()
    for _ in range(20_000):
        update(buffer, 64, generator)
    assert torch.equal(buffer.chains, torch.arange(1024, dtype=F64))  # every one, and in its own slot


def test_lineages_survive_through_the_loss(bowl, still, points, seeded):
    model, generator = bowl((1,), F64), seeded()
    loss_fn = ContrastiveDivergence(model, still(model), persistent=True, buffer_size=100)
    loss_fn(points(64, (1,), dtype=F64), generator=generator)
    loss_fn.replay_buffer.chains = torch.arange(100, dtype=F64).unsqueeze(1)
    seen = torch.zeros(100)
    for _ in range(300):
        _, negatives = loss_fn(points(64, (1,), dtype=F64), generator=generator)
        assert len(negatives.unique()) == 64
        seen[negatives.squeeze(1).long()] += 1
    assert torch.equal(loss_fn.replay_buffer.chains.squeeze(1), torch.arange(100, dtype=F64))
    assert ((seen / 300 - 0.64).abs() < 5.5 * math.sqrt(0.64 * 0.36 / 300)).all()  # 100 slots: failure below 4e-6


@pytest.mark.parametrize(("size", "n"), [(100, 64), (100, 100), (7, 3), (5, 1), (1, 1)])
def test_no_slot_twice_and_every_slot_in_its_turn(seeded, size, n):
    buffer, generator = filled(size, (2,)), seeded()
    counts = torch.zeros(size)
    n_updates = 2000
    for _ in range(n_updates):
        slots, chains = update(buffer, n, generator)
        assert len(slots.unique()) == n
        assert torch.equal(chains[:, 0], slots.double())
        counts[slots] += 1
    share = n / size
    spread = math.sqrt(share * (1 - share) / n_updates)
    assert ((counts / n_updates - share).abs() <= 5.5 * spread).all()  # alike, the last slots too: failure below 4e-6


def test_writes_go_where_the_chains_came_from(seeded):
    buffer = filled(10)
    slots, chains = buffer.draw(4, buffer.chains, generator=seeded())
    buffer.write(slots, chains + 100)
    expected = torch.arange(10, dtype=F64)
    expected[slots] += 100
    assert torch.equal(buffer.chains, expected)


def test_draws_are_copies_and_change_nothing(seeded):
    buffer = filled(10, (2,))
    before = buffer.chains.clone()
    _, chains = buffer.draw(10, buffer.chains, new_sample_ratio=0.5, generator=seeded())
    chains.fill_(-1.0)
    assert torch.equal(buffer.chains, before)


def test_a_first_draw_alone_begins_nothing(points, seeded):
    buffer = ReplayBuffer(10)
    first = buffer.draw(4, points(5), generator=seeded())
    assert buffer.chains.numel() == 0
    second = buffer.draw(4, points(5), generator=seeded())
    assert torch.equal(first[1], second[1])
    buffer.write(*second)
    assert buffer.chains.shape == (10, 3)
    assert torch.equal(buffer.chains[second[0]], second[1])


def test_written_chains_carry_no_graph(points, seeded):
    buffer = ReplayBuffer(6)
    slots, chains = buffer.draw(6, points(6), generator=seeded())
    buffer.write(slots, chains.requires_grad_() * 2)
    assert not buffer.chains.requires_grad


# fresh chains --------------------------------------------------------------------------------------------------------

SHIFT, SCALE = torch.tensor([100.0, -3.0]), torch.tensor([0.5, 20.0])


def begun(fresh, points, seeded, n=20_000, **options):
    data = (points(500, (2,)) * SCALE + SHIFT).double()
    return data, ReplayBuffer(n, fresh, **options).begin(n, data, generator=seeded())


@pytest.mark.parametrize("widen", [0.0, 0.5, 2.0])
def test_uniform_in_the_widened_box(points, seeded, widen):
    data, chains = begun("uniform", points, seeded, widen=widen)
    low, high = data.amin(0), data.amax(0)
    width = high - low
    low, width = low - widen * width / 2, width * (1 + widen)
    u = (chains - low) / width
    assert (u > -1e-9).all()
    assert (u < 1 + 1e-9).all()
    assert (u.amin(0) < 1e-3).all()  # failure below 2e-8
    assert (u.amax(0) > 1 - 1e-3).all()
    for power, mean in ((1, 1 / 2), (2, 1 / 3)):
        spread = math.sqrt((1 / (2 * power + 1) - mean**2) / len(u))
        assert ((u.pow(power).mean(0) - mean).abs() < 5 * spread).all()
    assert torch.corrcoef(u.T)[0, 1].abs() < 5 / math.sqrt(len(u))


def test_gaussian_with_the_datas_moments(points, seeded):
    data, chains = begun("gaussian", points, seeded)
    z = (chains - data.mean(0)) / data.std(0, correction=0)
    n = len(z)
    assert (z.mean(0).abs() < 5 / math.sqrt(n)).all()
    assert ((z.square().mean(0) - 1).abs() < 5 * math.sqrt(2 / n)).all()
    assert ((z.pow(4).mean(0) - 3).abs() < 5 * math.sqrt(96 / n)).all()


def test_rows_of_the_data(points, seeded):
    data, chains = begun("data", points, seeded)
    rows, counts = torch.unique(torch.cat([data, chains]), dim=0, return_counts=True)
    assert len(rows) == len(data)
    assert (counts > 1).all()  # each row is drawn: 40 times on average, failure below 1e-14
    assert ReplayBuffer(3, "data").begin(2, data).data_ptr() != data.data_ptr()


@pytest.mark.parametrize("fresh", ["uniform", "gaussian", "data"])
@pytest.mark.parametrize("event", [(), (3,), (1, 4, 5)], ids=str)
def test_shapes_and_dtypes(points, seeded, fresh, event):
    for dtype in (torch.float32, F64, torch.bfloat16):
        data = points(9, event, dtype=dtype)
        buffer = ReplayBuffer(20, fresh)
        slots, chains = buffer.draw(6, data, new_sample_ratio=0.5, generator=seeded())
        assert chains.shape == (6, *event)
        assert chains.dtype == dtype
        buffer.write(slots, chains)
        assert buffer.chains.shape == (20, *event)
        assert buffer.chains.dtype == dtype
        assert torch.equal(buffer.chains[slots], chains)
        assert chains.isfinite().all()


def test_a_buffer_keeps_its_dtype_and_draws_in_the_datas(points, seeded):
    buffer = filled(10, (3,))
    slots, chains = buffer.draw(4, points(4), generator=seeded())
    assert chains.dtype == torch.float32
    buffer.write(slots, chains)
    assert buffer.chains.dtype == F64


# chains that begin anew ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "n"), [(0.05, 20), (0.25, 64), (0.5, 10), (1.0, 10), (0.1, 30)])
def test_a_whole_share_begins_anew(points, seeded, ratio, n):
    data, buffer, generator = points(50, ()).double() + 1e6, filled(100), seeded()
    for _ in range(20):
        _, chains = buffer.draw(n, data, new_sample_ratio=ratio, generator=generator)
        assert int((chains > 1e5).sum()) == round(ratio * n)


def test_a_share_below_one_chain_is_right_on_average(points, seeded):
    """0.05 of 8 chains is 0.4 of one a draw; the count over 2,000 draws is within 5 standard deviations."""
    data, buffer, generator = points(50, ()).double() + 1e6, filled(100), seeded()
    total = sum(int((buffer.draw(8, data, 0.05, generator=generator)[1] > 1e5).sum()) for _ in range(2000))
    assert abs(total - 800) < 5 * math.sqrt(2000 * 0.4 * 0.6)


def test_new_chains_come_from_the_data_not_from_old_chains(points, seeded):
    """Every slot is renewed, from the box of the data that is there now."""
    buffer, generator = filled(40), seeded()
    data = points(50, ()).double() + 1e6
    for _ in range(400):
        slots, chains = buffer.draw(10, data, 0.2, generator=generator)
        buffer.write(slots, chains)
    width = data.max() - data.min()  # a slot is renewed with probability 1/20 an update: 40 * 0.95**400 is 5e-8
    assert (buffer.chains > data.min() - width / 4 - 1e-6).all()
    assert (buffer.chains < data.max() + width / 4 + 1e-6).all()


# state ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("event", [(), (3,), (1, 4, 5)], ids=str)
@pytest.mark.parametrize("used", [False, True], ids=["into a new one", "into a used one"])
def test_state_comes_back_bit_for_bit(points, seeded, dtype, event, used):
    first = ReplayBuffer(20)
    first.write(*first.draw(8, points(9, event, dtype=dtype), generator=seeded()))
    second = ReplayBuffer(20)
    if used:
        second.write(*second.draw(8, points(9, (2, 2), seed=1), generator=seeded(1)))
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.chains, first.chains)
    assert second.chains.dtype == dtype
    assert second.chains.data_ptr() != first.chains.data_ptr()
    for a, b in zip(*(buffer.draw(5, points(9, event, dtype=dtype), generator=seeded(2)) for buffer in (first, second)),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)


def test_a_load_is_not_undone_by_an_earlier_draw(points, seeded):
    first, second = filled(10, (3,)), ReplayBuffer(10)
    drawn = second.draw(4, points(5), generator=seeded())
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.chains, first.chains)
    second.write(drawn[0], second.chains[drawn[0]])
    assert torch.equal(second.chains, first.chains)


def test_the_state_of_an_unused_buffer_empties_a_used_one(points, seeded):
    buffer = filled(10, (3,))
    buffer.load_state_dict(ReplayBuffer(10).state_dict())
    assert buffer.chains.numel() == 0
    buffer.write(*buffer.draw(4, points(5, (2,)), generator=seeded()))
    assert buffer.chains.shape == (10, 2)


def test_a_saved_buffer_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the saved buffer has 10 chains, this one 11: give both one buffer_size"):
        ReplayBuffer(11).load_state_dict(filled(10, (3,)).state_dict())


# refusals ------------------------------------------------------------------------------------------------------------


def test_changed_data_is_refused(points, seeded):
    buffer = filled(10, (3,))
    for event in ((), (4,), (3, 1), (1, 3)):
        with pytest.raises(ValueError, match="one loss serves one kind of data"):
            buffer.draw(4, points(4, event), generator=seeded())
    assert torch.equal(buffer.chains, filled(10, (3,)).chains)


def test_more_chains_than_slots_are_refused(points):
    with pytest.raises(
        ValueError, match="11 chains asked of a buffer of 10: raise buffer_size, or lower the batch size"
    ):
        ReplayBuffer(10).draw(11, points(11))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((0,), ValueError, "size must be at least 1; got 0"),
        ((10.0,), TypeError, "size must be a whole number"),
        ((10, "zeros"), ValueError, "fresh must be one of 'uniform', 'gaussian', 'data'; got 'zeros'"),
        ((10, "uniform", -0.1), ValueError, "widen must be at least 0"),
        ((10, "uniform", math.nan), ValueError, "widen must be finite"),
    ],
)
def test_arguments_are_checked(arguments, error, says):
    with pytest.raises(error, match=says):
        ReplayBuffer(*arguments)


def test_a_single_point_is_a_box_of_no_width(seeded):
    chains = ReplayBuffer(5).begin(5, torch.full((1, 2), 3.0), generator=seeded())
    assert torch.equal(chains, torch.full((5, 2), 3.0))
    assert torch.equal(ReplayBuffer(5, "gaussian").begin(5, torch.full((1, 2), 3.0), generator=seeded()), chains)


# ages ----------------------------------------------------------------------------------------------------------------


def test_ages_count_what_was_written_back(seeded):
    buffer, generator = filled(10), seeded()
    assert float(buffer.mean_age) == 0.0
    counts = torch.zeros(10, dtype=torch.int64)
    for _ in range(20):
        slots, _ = update(buffer, 4, generator)
        counts[slots] += 1
    assert torch.equal(buffer.ages, counts)
    assert float(buffer.mean_age) == pytest.approx(8.0)
    buffer.draw(4, buffer.chains[:2], generator=generator)
    assert torch.equal(buffer.ages, counts)  # a draw alone changes nothing


def test_chains_that_begin_anew_are_young(points, seeded):
    """Those that are far from the old ones have been written back once, and nobody else has lost its age."""
    data, buffer, generator = points(50, ()).double() + 1e6, filled(100), seeded()
    for _ in range(30):
        before = buffer.ages.clone() if buffer.ages.numel() else torch.zeros(100, dtype=torch.int64)
        slots, chains = update(buffer, 20, generator) if not before.any() else buffer.draw(20, data, 0.25)
        buffer.write(slots, chains)
        new = slots[:5] if before.any() else slots[:0]
        rest = torch.tensor(sorted(set(range(100)) - set(new.tolist())))
        assert (buffer.ages[new] == 1).all()
        assert (buffer.ages[rest] >= before[rest]).all()


def test_ages_are_part_of_the_state(seeded):
    first, second = filled(10), ReplayBuffer(10)
    update(first, 4, seeded())
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.ages, first.ages)
    second.load_state_dict(ReplayBuffer(10).state_dict())
    assert float(second.mean_age) == 0.0
