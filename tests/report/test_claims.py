"""The claims of the papers and the scorecard of verdicts on them."""

import itertools
import json

import pandas as pd
import pytest

from transferlab.errors import UserError
from transferlab.report.claims import COLUMNS, Verdict, as_objects, claim, claims, papers, scorecard
from transferlab.report.stats import Judgement, effect, holm, judge_direction

COUNTS = {
    "finetuning": ("L", 8),
    "growing": ("G", 13),
    "treasures": ("B", 10),
    "imagenet": ("I", 11),
    "factors": ("F", 11),
}


def verdict(name: str, values=(2.0, 2.2, 1.8), scale: str = "cpu", judgement: Judgement | None = None) -> Verdict:
    return Verdict(name, scale, "a_chapter", judgement or judge_direction(effect(values), 1.0), "points", "A finding.")


# ---------------------------------------------------------------------------------------------------------- claims


def test_fifty_three_claims_of_five_papers():
    assert len(claims()) == 53
    assert list(claims()) == [f"{prefix}{i}" for prefix, count in COUNTS.values() for i in range(1, count + 1)]
    assert {key: (p.prefix, sum(c.paper == key for c in claims().values())) for key, p in papers().items()} == COUNTS


def test_every_claim_says_what_it_is():
    for name, c in claims().items():
        assert c.id == name
        assert name[0] == papers()[c.paper].prefix
        assert c.kind in ("claim", "hypothesis")
        assert c.sentence.endswith(".")
        assert c.question
        assert not c.reported.endswith(".")  # the page adds the full stop
    assert len({c.sentence for c in claims().values()}) == 53


def test_ids_stand_once_in_the_file():
    """A repeated id would hide a claim behind another one."""
    from transferlab.report.claims import CLAIMS

    assert CLAIMS.read_text().count("[[claims]]") == 53


def test_papers():
    for key, p in papers().items():
        assert p.key == key
        assert 2016 <= p.year <= 2020
        assert all((p.title, p.authors, p.short, p.venue, p.cite))


@pytest.mark.parametrize(("name", "suggestion"), [("G14", "; did you mean G"), ("i1", ""), ("", ""), ("X1", "")])
def test_unknown_claim(name, suggestion):
    with pytest.raises(UserError, match=rf"claim \(={name}\): must be one of L1, L2, .* and 41 more{suggestion}"):
        claim(name)
    with pytest.raises(UserError, match=rf"claim \(={name}\)"):
        scorecard([verdict(name)])


# ------------------------------------------------------------------------------------------------------- scorecard


def test_nothing_was_tested():
    card = scorecard([])
    assert list(card.columns) == list(COLUMNS)
    assert list(card["claim"]) == list(claims())
    assert set(card["verdict"]) == {"not tested"}
    assert card.drop(columns=["claim", "paper", "verdict"]).isna().all(axis=None)


def test_one_verdict_among_many_claims():
    card = scorecard([verdict("I3")])
    assert list(card["claim"]) == list(claims())
    row = card.set_index("claim").loc["I3"]
    found = effect([2.0, 2.2, 1.8])
    assert (row["paper"], row["scale"], row["verdict"], row["unit"], row["n"]) == (
        "imagenet",
        "cpu",
        "supported",
        "points",
        3,
    )
    assert (row["effect"], row["low"], row["high"], row["p"], row["p_sign"]) == (
        found.mean,
        found.low,
        found.high,
        found.p,
        found.p_sign,
    )
    assert row["p_holm"] == found.p  # alone in its paper and scale
    assert (row["finding"], row["chapter"], row["why"]) == (
        "A finding.",
        "a_chapter",
        "the interval lies on the claimed side of zero",
    )
    assert (card["verdict"] == "not tested").sum() == 52


def test_a_claim_at_two_scales_has_two_rows():
    card = scorecard([verdict("I3", scale="gpu"), verdict("I3", scale="cpu"), verdict("L1")])
    assert len(card) == 54
    assert list(card[card["claim"] == "I3"]["scale"]) == ["gpu", "cpu"]  # in the order given
    assert list(card["claim"].drop_duplicates()) == list(claims())


def test_holm_within_a_paper_and_scale():
    values = [(2.0, 2.2, 1.8), (1.0, 3.0, 2.0), (0.3, -0.1, 0.4), (5.0, 5.2, 4.6)]
    judged = {
        (c, s): v
        for (c, s), v in zip(
            itertools.product(("I1", "I2", "G1"), ("cpu", "gpu")), itertools.cycle(values), strict=False
        )
    }
    card = scorecard([verdict(c, v, s) for (c, s), v in judged.items()]).set_index(["claim", "scale"])
    for scale in ("cpu", "gpu"):
        ps = [effect(judged[c, scale]).p for c in ("I1", "I2")]
        assert [card.loc[(c, scale), "p_holm"] for c in ("I1", "I2")] == pytest.approx(holm(ps))
        assert card.loc[("G1", scale), "p_holm"] == pytest.approx(effect(judged["G1", scale]).p)
    assert (card["p_holm"].dropna() >= card["p"].dropna()).all()


def test_a_chapter_without_an_effect():
    """One seed: no interval, and p is 1."""
    row = scorecard([verdict("I1", [2.0])]).set_index("claim").loc["I1"]
    assert (row["verdict"], row["n"], row["p_holm"]) == ("inconclusive", 1, 1.0)


# ----------------------------------------------------------------------------------------------------- plain data


def test_as_objects():
    rows = as_objects(scorecard([verdict("I3"), verdict("G1", [2.0])]))
    assert len(rows) == 53
    assert {tuple(r) for r in rows} == {("claim", "paper", "scale", "verdict", "effect", "interval", "p", "n")}
    by_claim = {r["claim"]: r for r in rows}
    found = effect([2.0, 2.2, 1.8])
    assert by_claim["I3"] == {
        "claim": "I3",
        "paper": "imagenet",
        "scale": "cpu",
        "verdict": "supported",
        "effect": found.mean,
        "interval": [found.low, found.high],
        "p": found.p,
        "n": 3,
    }
    assert isinstance(by_claim["I3"]["n"], int)
    assert by_claim["G1"]["interval"] is None  # it is not finite
    assert by_claim["G1"]["effect"] == 2.0
    untested = {"scale": None, "verdict": "not tested", "effect": None, "interval": None, "p": None, "n": None}
    assert by_claim["L1"] == {"claim": "L1", "paper": "finetuning"} | untested


@pytest.mark.parametrize("verdicts", [[], [verdict("I3")]], ids=["none", "one"])
def test_objects_are_json(verdicts):
    rows = as_objects(scorecard(verdicts))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_objects_of_no_rows():
    assert as_objects(scorecard([]).iloc[:0]) == []
    assert isinstance(scorecard([]), pd.DataFrame)
