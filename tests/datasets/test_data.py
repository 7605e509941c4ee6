"""The data set noun, the split, the bundled digits, and what importing the room costs."""

import subprocess
import sys

import pytest
import torch

from torchebm.datasets import Data, DataError, digits, split


def numbered_rows(n):
    rows = torch.arange(float(n))
    return Data(rows[:, None], "table", "rows", labels=rows.long(), columns=("i",))


@pytest.mark.parametrize(("n", "fraction", "n_held_out"), [(10, 0.2, 2), (10, 0.01, 1), (10, 0.99, 9), (2, 0.5, 1)])
def test_split_partitions_the_rows(n, fraction, n_held_out):
    data = numbered_rows(n)
    before = torch.random.get_rng_state()
    train, held_out = split(data, fraction, torch.Generator().manual_seed(0))
    assert len(held_out) == n_held_out
    assert sorted(torch.cat((train.x, held_out.x)).flatten().tolist()) == list(range(n))
    assert all(torch.equal(part.labels, part.x[:, 0].long()) for part in (train, held_out))
    assert train.columns == ("i",)
    again = split(data, fraction, torch.Generator().manual_seed(0))
    assert torch.equal(train.x, again[0].x)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(data.x, numbered_rows(n).x)


def test_split_shuffles():
    train, _ = split(numbered_rows(100), 0.1, torch.Generator().manual_seed(0))
    assert train.labels.tolist() != sorted(train.labels.tolist())


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_split_refuses_other_fractions(fraction):
    with pytest.raises(ValueError, match="fraction must lie strictly between 0 and 1"):
        split(numbered_rows(10), fraction)


def test_split_refuses_one_row():
    with pytest.raises(DataError, match="splitting needs at least 2"):
        split(numbered_rows(1), 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 2), "kind": "sound"}, "kind must be"),
        ({"x": torch.zeros(2, 2), "kind": "image"}, r"must be \[n, c, h, w\]"),
        ({"x": torch.zeros(2, 2), "kind": "table", "labels": torch.zeros(3)}, "one per row"),
        ({"x": torch.zeros(2, 2), "kind": "table", "columns": ("a",)}, "name all 2 columns"),
    ],
)
def test_data_refuses_what_does_not_fit_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        Data(name="bad", **arguments)


def test_digits():
    data = digits()
    assert (data.x.shape, data.x.dtype, data.kind, data.bounds) == (
        (1797, 1, 8, 8),
        torch.float32,
        "image",
        (0.0, 16.0),
    )
    assert (data.labels.dtype, data.labels.unique().tolist()) == (torch.int64, list(range(10)))
    assert (data.x.min(), data.x.max()) == (0, 16)


def test_import_is_light():
    heavy = "{'pandas', 'sklearn', 'PIL', 'matplotlib', 'scipy', 'pyarrow'}"
    code = f"import sys, torchebm.datasets; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) in ((0, ""), (1, "\n")), done.stderr


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "torchebm\[data\]"'):
        digits()
