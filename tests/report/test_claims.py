"""The claims of the papers and the scorecard of verdicts on them."""

import itertools
import json

import pandas as pd
import pytest
from verdicts import several, verdict

from transferlab.errors import UserError
from transferlab.report.claims import TOLD, as_objects, claim, claims, counted, own, papers, scorecard
from transferlab.report.stats import effect, holm

COUNTS = {
    "finetuning": ("L", 8),
    "growing": ("G", 13),
    "treasures": ("B", 10),
    "imagenet": ("I", 11),
    "factors": ("F", 11),
}


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


def test_claims_of_our_own_are_no_paper_s_and_not_on_the_scorecard():
    assert list(own()) == ["A1"]
    assert not own().keys() & claims().keys()
    assert (claim("A1").paper, claim("A1").kind, claim("A1").reported) == ("", "hypothesis", "")
    assert "A1" not in set(scorecard([])["claim"])


# ------------------------------------------------------------------------------------------------------- scorecard


def test_nothing_was_tested():
    card = scorecard([])
    assert list(card.columns) == ["claim", "paper", "kind", *TOLD[1:], "first"]
    assert list(card["claim"]) == list(claims())
    assert set(card["verdict"]) == {"not tested"}
    assert card.drop(columns=["claim", "paper", "kind", "verdict", "first"]).isna().all(axis=None)


def test_one_verdict_among_many_claims():
    card = scorecard([verdict("I3")])
    assert list(card["claim"]) == list(claims())
    row, found = card.set_index("claim").loc["I3"], effect([2.0, 2.2, 1.8])
    told = ("imagenet", "claim", "cpu", "holds here", "points", 3, "a_chapter")
    assert tuple(row[c] for c in ("paper", "kind", "scale", "verdict", "unit", "n", "chapter")) == told
    assert (row["p"], row["p_holm"]) == (pytest.approx(found.p), pytest.approx(found.p))  # alone in its paper and scale
    assert (card["verdict"] == "not tested").sum() == 52


def test_a_claim_at_two_scales_has_two_rows():
    card = scorecard([verdict("I3", scale="gpu"), verdict("I3", scale="cpu"), verdict("L1")])
    assert len(card) == 54
    assert list(card[card["claim"] == "I3"]["scale"]) == ["gpu", "cpu"]  # in the order given
    assert list(card["claim"].drop_duplicates()) == list(claims())


def test_holm_within_a_paper_and_scale():
    values = [(2.0, 2.2, 1.8), (1.5, 2.5, 2.0), (1.3, 1.1, 1.4), (5.0, 5.2, 4.6), (0.9, 1.1, 1.0)]
    asked = list(itertools.product(("I1", "I2", "G1"), ("cpu", "gpu")))
    judged = dict(zip(asked, itertools.cycle(values), strict=False))
    judged["I2", "gpu"] = (9.0, -8.0, 1.0)  # open: no p, but it is one of those that were tested
    card = scorecard([verdict(c, v, s) for (c, s), v in judged.items()]).set_index(["claim", "scale"])
    for scale in ("cpu", "gpu"):
        ps = [1.0 if pd.isna(p) else p for p in (card.loc[(c, scale), "p"] for c in ("I1", "I2"))]
        assert card.loc[("I1", scale), "p_holm"] == pytest.approx(holm(ps)[0])
        assert card.loc[("G1", scale), "p_holm"] == pytest.approx(card.loc[("G1", scale), "p"])
    assert pd.isna(card.loc[("I2", "gpu"), "p_holm"])
    assert card.loc[("I1", "gpu"), "p_holm"] == pytest.approx(2 * card.loc[("I1", "gpu"), "p"])


def test_a_chapter_without_an_interval():
    """One seed: no interval, no decision and no p."""
    row = scorecard([verdict("I1", [2.0])]).set_index("claim").loc["I1"]
    assert (row["verdict"], row["n"]) == ("undecided", 1)
    assert pd.isna(row["p_holm"])


def test_what_counts():
    card = scorecard([verdict("I3", scale="gpu"), verdict("I3"), verdict("I2"), verdict("I4", same_as="I2")])
    assert len(counted(card)) == 52
    assert counted(card).set_index("claim").loc["I3", "scale"] == "gpu"
    assert "I4" not in set(counted(card)["claim"])


# ----------------------------------------------------------------------------------------------------- plain data


def test_as_objects():
    rows = as_objects(
        scorecard([verdict("I3"), verdict("G1", [2.0]), several("G2", one=[1, 1.1, 0.9], two=[-1, -1.1, -0.9])])
    )
    assert len(rows) == 53
    wanted = {"claim", "paper", "scale", "verdict", "effect", "interval", "bar", "p", "n", "seeds", "parts"}
    assert all(wanted | {"fixed_before", "rule"} <= r.keys() for r in rows)
    by_claim = {r["claim"]: r for r in rows}
    found, got = effect([2.0, 2.2, 1.8]), by_claim["I3"]
    assert (got["effect"], got["interval"], got["bar"]) == (found.mean, [found.low, found.high], 0.0)
    assert (got["verdict"], got["n"], got["seeds"], got["fixed_before"]) == ("holds here", 3, [0, 1, 2], True)
    assert by_claim["G1"]["interval"] is None  # it is not finite
    assert by_claim["G1"]["effect"] == 2.0
    assert by_claim["G2"]["effect"] is None  # no part stands for the whole
    assert [p["verdict"] for p in by_claim["G2"]["parts"]] == ["holds", "fails"]
    assert (by_claim["L1"]["verdict"], by_claim["L1"]["parts"], by_claim["L1"]["n"]) == ("not tested", [], None)


@pytest.mark.parametrize("verdicts", [[], [verdict("I3")]], ids=["none", "one"])
def test_objects_are_json(verdicts):
    rows = as_objects(scorecard(verdicts))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_objects_of_no_rows():
    assert as_objects(scorecard([]).iloc[:0]) == []
    assert isinstance(scorecard([]), pd.DataFrame)
