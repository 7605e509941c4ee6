"""What the report says about guards."""

from torchebm.report.guarding import guard_actions

EVENTS = [
    {"step": 1500, "event": "warning", "guard": "saturation", "reason": "90% of <b> lie at the edge"},
    {"step": 2450, "event": "rollback", "guard": "gap", "reason": "the energy gap has been 12 times its noise",
     "to_step": 1000, "to_line": 1000, "attempt": 1,
     "remedy": {"learning_rate": 1 / 3, "sampler_steps": 2.0, "step_size": 1.0}},
    {"step": 2600, "event": "stop", "guard": "gap", "reason": "once more"},
]  # fmt: skip


def test_each_action_has_its_row():
    source = "".join(guard_actions(EVENTS))
    assert "Training went back once." in source
    for text in ("1,500", "warned", "90% of &lt;b&gt; lie", "stopped the run",
                 "went back to step 1,000; new seed; learning rate × 0.333; sampler steps × 2</td>"):  # fmt: skip
        assert text in source
    assert source.count("<tr>") == 4


def test_a_run_without_any():
    source = "".join(guard_actions([]))
    assert "Nothing looked wrong" in source
    assert "<table" not in source


def test_warnings_alone_went_nowhere():
    assert "went back" not in "".join(guard_actions(EVENTS[:1]))
