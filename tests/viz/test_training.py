import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from torchebm import viz

RECORDS = [
    {"step": 10 * k, "energy_data": -k / 9, "energy_negative": 1 - k / 9, "energy_gap": -1.0, "gradient_norm": 10.0**-k,
     "event": "none"} | ({"acceptance_rate": 0.5} if k % 3 == 0 else {})
    for k in range(10)
]  # fmt: skip


@pytest.fixture
def figure():
    figure = Figure(layout="constrained")
    yield figure
    figure.canvas.draw()


def test_a_panel_per_key_with_the_energies_together(figure):
    axes = viz.training_curves(RECORDS, figure=figure)
    assert [ax.get_ylabel() for ax in axes] == [
        "energy", "energy gap, negatives − data", "gradient norm", "acceptance rate"]  # fmt: skip
    data, negatives = axes[0].lines
    np.testing.assert_allclose(data.get_xdata(), np.arange(0, 100, 10))
    np.testing.assert_allclose(data.get_ydata(), [-k / 9 for k in range(10)])
    np.testing.assert_allclose(negatives.get_ydata(), [1 - k / 9 for k in range(10)])
    assert axes[2].get_yscale() == "log"
    np.testing.assert_allclose(axes[3].lines[0].get_xdata(), [0, 30, 60, 90])


def test_a_file_gives_the_same_curves_and_its_cut_last_line_is_left_out(figure, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)) + '\n{"step": 100, "ener')
    axes = viz.training_curves(path, keys=["energy_gap"], figure=figure)
    assert len(axes) == 1
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), -np.ones(10))


def test_values_that_are_not_finite_interrupt_the_curve_and_are_counted(figure):
    records = [{"step": k, "loss": None if k == 3 else math.nan if k == 7 else float(k)} for k in range(10)]
    (ax,) = viz.training_curves(records, smoothing=3, figure=figure)
    raw, mean = (line.get_ydata() for line in ax.lines)
    assert np.isnan(raw).nonzero()[0].tolist() == [3, 7]
    np.testing.assert_allclose(mean[[0, 1, 5, 9]], [0.5, 1, 5, 8.5])
    assert np.isnan(mean).nonzero()[0].tolist() == [2, 3, 4, 6, 7, 8]
    assert "2 of 10 loss not finite" in ax.texts[0].get_text()


def test_many_records_are_smoothed_by_default(figure):
    records = [{"step": k, "loss": float(k % 2)} for k in range(500)]
    (ax,) = viz.training_curves(records, figure=figure)
    assert len(ax.lines) == 2
    assert np.ptp(ax.lines[1].get_ydata()[10:-10]) == 0


def test_axes_given_are_used():
    places = Figure().subplots(2, 2)
    assert list(viz.training_curves(RECORDS, axes=places)) == list(places.ravel())


def test_one_record_is_drawn_as_a_point(figure):
    (ax,) = viz.training_curves([{"step": 0, "loss": 1.0}], figure=figure)
    assert ax.lines[0].get_marker() == "o"


@pytest.mark.parametrize(
    ("metrics", "options", "message"),
    [
        ([], {}, "metrics has no records"),
        ([{"loss": 1.0}], {}, "record 0 has step None"),
        ([{"step": 1}], {}, "nothing to draw"),
        (RECORDS, {"keys": ["los"]}, "keys asks for 'los'; expected .*'energy_data'"),
        (RECORDS, {"keys": ["event"]}, "keys that are numbers"),
        (RECORDS, {"smoothing": 0}, "smoothing is 0"),
        (RECORDS, {"axes": []}, "axes has 0 entries; expected 4"),
        (RECORDS, {"axes": [], "figure": Figure()}, "expected one of them"),
    ],
)
def test_wrong_records_are_refused_with_the_fix(metrics, options, message):
    with pytest.raises(ValueError, match=message):
        viz.training_curves(metrics, **options)


def test_a_broken_line_is_refused_by_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1}\nnot json\n{"step": 2, "loss": 1}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl is not JSON: 'not json"):
        viz.training_curves(path)
