"""What the page says of effects, verdicts and searches."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from transferlab.report.cards import VerdictCard, at_the_ends, interval, more, number, p_value, scorecard_table
from transferlab.report.claims import Verdict, scorecard
from transferlab.report.stats import Judgement, effect, judge_direction, judge_equal, judge_not_worse

FOUND = effect([2.0, 2.2, 1.8])


def verdict(judgement: Judgement, unit: str = "points") -> Verdict:
    return Verdict("I1", "cpu", "a_chapter", judgement, unit, "A finding.")


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (0.04, "0.0 points more"),
        (-0.42, "0.4 points less"),
        (1.0, "1.0 points more"),
        (-9.94, "9.9 points less"),
        (18.7, "19 points more"),
    ],
)
def test_differences_agree_with_the_numbers_beside_them(points, words):
    assert more(points) == words


def test_correlations_have_two_decimals():
    found = effect([0.24, 0.23, 0.26])
    assert interval(found, "points").startswith("+0.2 points, 95% interval +0.2 to +0.3, n = 3")
    assert interval(found, "rank correlation").startswith("+0.24 rank correlation, 95% interval +0.21 to +0.28")
    assert interval(effect([0.24]), "rank correlation") == "+0.24 rank correlation; one seed has no interval"
    card = scorecard_table(scorecard([verdict(judge_direction(found, 1.0), "rank correlation")]), {})
    assert "+0.24 [+0.21, +0.28] rank correlation" in card.markup


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        (judge_direction(FOUND, 1.0), f"p {p_value(FOUND.p)} (t), .250 (sign flip)"),
        (judge_equal(FOUND, 1.0), f"p {p_value(judge_equal(FOUND, 1.0).effect.p)} (equal within 1)"),
        (judge_not_worse(FOUND, 1.0), f"p {p_value(judge_not_worse(FOUND, 1.0).effect.p)} (t, against -1)"),
    ],
)
def test_a_card_names_the_test_whose_p_it_prints(judgement, said):
    text = re.sub("<[^>]+>", "", VerdictCard(verdict(judgement))._repr_html_())
    assert f"{interval(FOUND, 'points')}; {said}The paper:" in text


def test_a_verdict_names_what_other_scales_say_of_the_same_claim():
    here, there = (
        verdict(judge_direction(FOUND, 0.5)),
        replace(verdict(judge_direction(effect([-2.0, -2.2, -1.8]), 0.5)), scale="gpu"),
    )
    about_another = replace(there, claim="I2", scale="paper")
    text = re.sub("<[^>]+>", "", VerdictCard(here, [there, about_another])._repr_html_())
    assert "At scale gpu: contradicted \u22122.0 points, 95% interval \u22122.5 to \u22121.5, n = 3 seeds" in text
    assert "At scale paper" not in text


def test_choices_at_the_ends_of_the_grid_are_counted():
    chosen = pd.DataFrame({"arm": ["a", "a", "b", "b", "c"], "lr": [0.1, 0.4, 0.1, 0.2, 0.2]})
    words = at_the_ends(chosen, "arm", (0.1, 0.2, 0.4))
    assert words.startswith(
        "Of 5 choices of a rate, 2 fell on the smallest and 1 on the largest of 3: a rate beyond might"
    )
    assert words.endswith("; nothing else was chosen by: a.")
    assert at_the_ends(chosen[2:], "arm", (0.1, 0.2, 0.4)).endswith("might have suited these better.")
    assert at_the_ends(chosen, "arm", (0.1,)) == ""


def test_numbers_have_a_true_minus():
    assert (number(-1.25, 2), number(0.0), number(3)) == ("\u22121.25", "0.0", "+3.0")
