"""Which targets a contrast stands on."""

import pandas as pd
import pytest

from transferlab.errors import UserError
from transferlab.report.study import Study

FULL, FLOOR = {"arm": "full"}, {"arm": "floor"}


def study(scale: str, gains: dict[str, list[float]]) -> Study:
    """A study whose full source gains so much on each target, by seed."""
    rows = [
        {"arm": arm, "target": target, "seed": seed, "accuracy": 50.0 + gain * (arm == "full")}
        for target, its in gains.items()
        for seed, gain in enumerate(its)
        for arm in ("full", "floor")
    ]
    made = Study.__new__(Study)
    made.name, made.scale, made.factors, made.targets, made.narrowed, made.asked = (
        "one",
        scale,
        ["arm"],
        [*gains],
        False,
        {},
    )
    made.records = pd.DataFrame(rows)
    return made


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
def test_targets_that_do_not_clearly_gain_are_left_out(scale):
    assert study(scale, {"a": [5.0, 6.0, 5.5], "b": [9.0, -7.0, 1.0]}).gaining(FULL, FLOOR).targets == ["a"]


def test_where_none_clearly_gains_a_toy_is_shown_and_a_study_is_not_judged():
    none = {"a": [5.0, -6.0], "b": [9.0, -7.0]}
    assert study("smoke", none).gaining(FULL, FLOOR).targets == ["a", "b"]
    with pytest.raises(UserError, match="target"):
        study("cpu", none).gaining(FULL, FLOOR)


def test_one_seed_has_no_interval_to_leave_a_target_out_by():
    assert study("cpu", {"a": [5.0], "b": [-1.0]}).gaining(FULL, FLOOR).targets == ["a", "b"]
