import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch

from torchebm import diagnostics
from torchebm.diagnostics.entries import Entries


def values(data, name):
    return data.posterior[name].values


def test_an_image_is_one_variable_with_its_axes(az, normal):
    x = normal(4, 10, 2, 3)
    data = diagnostics.to_arviz(x)
    assert type(data).__name__ == ("InferenceData" if az.__version__.startswith("0.") else "DataTree")
    assert data.posterior["x"].dims == ("chain", "draw", "x_dim_0", "x_dim_1")
    np.testing.assert_array_equal(values(data, "x"), x)
    assert "sample_stats" not in (data.groups() if callable(data.groups) else [g.strip("/") for g in data.groups])


def test_a_scalar_event_has_no_axes_of_its_own(normal):
    x = normal(4, 10)
    for names, name in ((None, "x"), ("theta", "theta"), (["theta"], "theta"), ({"theta": 0}, "theta")):
        data = diagnostics.to_arviz(x, names=names)
        assert data.posterior[name].dims == ("chain", "draw")
        np.testing.assert_array_equal(values(data, name), x)


def test_a_list_names_each_entry(normal):
    x = normal(4, 10, 3)
    data = diagnostics.to_arviz(x, names=["a", "b", "c"])
    for k, name in enumerate("abc"):
        np.testing.assert_array_equal(values(data, name), x[..., k])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"a": 0, "b": slice(1, 4), "c": -1}, {"a": 0, "b": [1, 2, 3], "c": 4}),
        ({"b": slice(3, None), "a": 1}, {"b": [3, 4], "a": 1}),  # any order, and not all
        ({"b": slice(None, None, -1)}, {"b": [4, 3, 2, 1, 0]}),
        ({"b": slice(0, 5, 2)}, {"b": [0, 2, 4]}),
        ({"a": (), "b": (2, 2)}, {"a": 0, "b": [[1, 2], [3, 4]]}),
        ({"a": (), "b": torch.Size([4])}, {"a": 0, "b": [1, 2, 3, 4]}),
    ],
)
def test_a_dict_splits_a_vector(names, expected, normal):
    x = normal(4, 10, 5)
    data = diagnostics.to_arviz(x, names=names)
    assert set(data.posterior.data_vars) == set(expected)
    entries = Entries(x, names)
    for name, places in expected.items():
        np.testing.assert_array_equal(values(data, name), x[:, :, places])
        (own,) = (np.array(entries.find([name])),)
        np.testing.assert_array_equal(entries.values(own), x[:, :, np.ravel(places)])


def test_labels_are_those_of_arviz(az, normal):
    x = normal(4, 20, 5)
    names = {"a": (), "b": (2, 2)}
    assert Entries(x, names).labels == list(az.summary(diagnostics.to_arviz(x, names=names)).index)


def test_axes_and_labels_can_be_named(normal):
    x = normal(4, 10, 4)
    data = diagnostics.to_arviz(
        x, names={"a": 0, "b": slice(1, 4)}, dims={"b": ["feature"]}, coords={"feature": ["age", "height", "weight"]}
    )
    assert data.posterior["b"].dims == ("chain", "draw", "feature")
    np.testing.assert_array_equal(data.posterior["b"].sel(feature="height"), x[..., 2])


def test_only_what_has_a_value_per_chain_and_draw_is_kept(normal):
    n = 4  # as many chains as draws and entries: shapes alone cannot tell the mean from the energy
    x = normal(n, n, n)
    kept = {"energy": x[..., 0], "diverging": x[..., 0] > 0, "n_steps": torch.ones(n, n, dtype=torch.int64),
            "log_weight": x[..., 1].bfloat16()}  # fmt: skip
    other = {"mean": x.mean(0), "var": x.var(0), "step_size": torch.tensor(0.1), "swap_rate": torch.ones(3)}
    data = diagnostics.to_arviz(x, kept | other)
    assert set(data.sample_stats.data_vars) == set(kept)
    assert data.sample_stats["diverging"].dtype == bool
    assert data.sample_stats["log_weight"].dtype == np.float32
    np.testing.assert_array_equal(data.sample_stats["energy"], x[..., 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_become_float32(dtype, normal):
    x = normal(4, 10, 2).to(dtype)
    draws = values(diagnostics.to_arviz(x), "x")
    assert draws.dtype == np.float32
    np.testing.assert_array_equal(draws, x.float())


def test_other_dtypes_arrays_and_graphs_are_taken(normal):
    x = normal(4, 10, 2)
    for given in (x.numpy(), x.clone().requires_grad_(), x.float(), (x > 0), (9 * x).long(), x.mT.contiguous().mT):
        draws = values(diagnostics.to_arviz(given), "x")
        np.testing.assert_array_equal(draws, np.asarray(given.detach() if isinstance(given, torch.Tensor) else given))
    assert values(diagnostics.to_arviz(x.float()), "x").dtype == np.float32


def test_what_is_not_finite_is_kept():
    x = torch.zeros(4, 10, 2)
    x[1, 3, 0], x[2, 5, 1] = torch.nan, torch.inf
    np.testing.assert_array_equal(values(diagnostics.to_arviz(x), "x"), x)


def test_more_chains_than_draws_is_no_mistake(normal):
    assert values(diagnostics.to_arviz(normal(64, 5, 2)), "x").shape == (64, 5, 2)


VECTOR = torch.zeros(4, 10, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(5),), ValueError, r"shape \[5\]; expected \[chain, draw, \*event\]"),
        ((torch.zeros(0, 5),), ValueError, "a chain and a draw at least"),
        ((torch.zeros(2, 5, dtype=torch.complex64),), TypeError, "real numbers; got complex64"),
        ((VECTOR, {"diverging": torch.zeros(4, 9)}), ValueError, r"\[4, 9\]; expected \[4, 10\] = \[chain, draw\]"),
        ((VECTOR, None, ["a", "b"]), ValueError, "names has 2 entries, 2 of them distinct; expected 3"),
        ((VECTOR, None, ["a", "b", "a"]), ValueError, "3 entries, 2 of them distinct"),
        ((VECTOR, None, ["a", "b", 3]), TypeError, "names must be strings; got 3"),
        ((VECTOR, None, ["chain", "b", "c"]), ValueError, "'chain' cannot name a variable"),
        ((VECTOR, None, {}), ValueError, "names is empty"),
        ((VECTOR, None, {"a": 3}), ValueError, r"holds no entry of an event of shape \[3\]"),
        ((VECTOR, None, {"a": slice(5, 9)}), ValueError, "holds no entry"),
        ((VECTOR, None, {"a": [0, 1]}), TypeError, r"expected an index, a slice or a shape: 4, slice\(1, 4\)"),
        ((VECTOR, None, {"a": True}), TypeError, "names\\['a'\\] is True"),
        ((VECTOR, None, {"a": (), "b": (3,)}), ValueError, r"hold 1 \+ 3 = 4 entries; expected 3"),
        ((VECTOR, None, {"a": (), "b": ()}), ValueError, r"hold 1 \+ 1 = 2 entries; expected 3"),
        ((VECTOR, None, {"a": (), "b": slice(1, 3)}), ValueError, "mixes shapes with places"),
        ((torch.zeros(4, 10, 2, 2), None, ["a"] * 4), ValueError, r"this event has shape \[2, 2\]"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        diagnostics.to_arviz(*arguments)


def test_dims_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"dims names the axes of 'y', but there are \['x'\]"):
        diagnostics.to_arviz(VECTOR, dims={"y": ["feature"]})
    with pytest.raises(ValueError, match="expected a list of 1 names, without chain and draw"):
        diagnostics.to_arviz(VECTOR, dims={"x": ["chain", "draw", "feature"]})
    with pytest.raises(ValueError, match="expected a list of 1 names"):
        diagnostics.to_arviz(VECTOR, dims={"x": "f"})


def test_without_arviz_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    for call in (diagnostics.to_arviz, diagnostics.summary):
        with pytest.raises(ImportError, match=r'pip install "torchebm\[arviz\]"'):
            call(VECTOR + torch.arange(10.0)[:, None])


FIRST = """
import sys, torch
import torchebm.diagnostics as diagnostics
print({"arviz", "pandas", "matplotlib", "xarray"} & set(sys.modules))
print(diagnostics.to_arviz(torch.zeros(4, 100)).posterior["x"].shape)
"""


def test_the_room_imports_little_and_the_first_import_of_the_day_is_quiet(tmp_path, monkeypatch):
    """ArviZ 0.x warns once a day; the stamp of today is looked for in an empty home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # fonts are a matter of seconds
    done = subprocess.run([sys.executable, "-W", "error::FutureWarning", "-c", FIRST], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n(4, 100)\n"), done.stderr
    assert "Warning" not in done.stderr
