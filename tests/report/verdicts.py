"""Verdicts for tests, from numbers by seed."""

from types import SimpleNamespace

import pandas as pd

from transferlab.errors import UserError
from transferlab.report.rules import Part, Rule, Verdict, judge

VALUES = (2.0, 2.2, 1.8)


class Numbers:
    """What a rule asks of a study: numbers by seed, of each target if there are some."""

    scale, name, uneven = "cpu", "a_chapter", False

    def __init__(self, values, targets=()) -> None:
        self.values, self.of, self.targets = values, dict(targets), list(dict(targets)) or ["all"]
        self.seeds = list(range(len(values)))

    def only(self, target: str) -> "Numbers":
        if target not in self.of:
            raise UserError(f"target (={target}): is not one of these")
        return Numbers(self.of[target])


def read(study: Numbers) -> pd.Series:
    """The numbers themselves."""
    return pd.Series(list(study.values), dtype=float)


def verdict(claim="I3", values=VALUES, scale="cpu", side="above", unit="points", targets=(), **about) -> Verdict:
    """The verdict on a claim of one part."""
    part = {k: about.pop(k) for k in ("bar", "margin", "paper") if k in about}
    study = Numbers(values, targets)
    study.scale = scale
    rule = Rule(claim, {"the part": Part(read, side, **part)}, unit=unit, fixed="2026-01-31")
    return judge(rule, study, **about)


def several(claim="G1", scale="cpu", **parts) -> Verdict:
    """The verdict on a claim of several parts, each by its numbers."""
    study = SimpleNamespace(scale=scale, name="a_chapter", seeds=[0, 1, 2], targets=["all"], uneven=False)
    made = {name: Part(lambda _, v=values: pd.Series(v, dtype=float)) for name, values in parts.items()}
    return judge(Rule(claim, made, fixed="2026-01-31"), study)
