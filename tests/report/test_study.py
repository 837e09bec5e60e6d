"""Which targets a contrast stands on, and a live part that trains again."""

from types import SimpleNamespace

import altair as alt
import pandas as pd
import pytest

from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.report import study as module
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


def test_each_training_of_a_live_part_adds_its_point(monkeypatch):
    """With a kernel: the panel's chart has what was trained before, too."""

    def toy(scale, count, run, device, workers, targets):
        rows = [("synthetic:0", "scratch", s, 40.0 + s + count) for s in range(count)]
        rows += [("synthetic:0", "tuned", s, 60.0 + s + count) for s in range(count)]
        records = pd.DataFrame(rows, columns=["target", "arm", "seed", "accuracy"])
        return SimpleNamespace(records=records, factors=["arm"])

    shown = []
    monkeypatch.setattr(module, "display", shown.append)
    here = SimpleNamespace(chapter=SimpleNamespace(study=toy), lab=Lab(run="never"), name="toy", _agrees=lambda toy: "")
    Study.live(here, lambda toy: alt.Chart(toy.records).mark_point(), ("0", "1"), True)
    first, workbench = shown
    assert len(first.charts) == 1
    assert first.legend == {}
    second = workbench.train(distance="1", count=2)
    assert len(second.charts) == 2
    assert list(second.legend) == ["0 one repetition", "1 2 repetitions"]
    points = second.charts[-1].to_dict()
    (rows,) = [rows for rows in points["datasets"].values() if "run" in rows[0]]
    means = {(row["run"], row["arm"]): row["accuracy"] for row in rows}
    assert means["1 2 repetitions", "tuned"] == 62.5
    assert means["0 one repetition", "scratch"] == 41.0
