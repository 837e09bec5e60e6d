"""What the page says of effects and verdicts."""

import re
from dataclasses import replace

import pytest
from verdicts import VALUES, several, verdict

from transferlab.report.cards import (
    Short,
    VerdictCard,
    bracketed,
    chip,
    deciding,
    drawing,
    interval,
    more,
    number,
    p_value,
    scorecard_table,
    spans,
    tally_html,
    tiles_html,
)
from transferlab.report.claims import claim, scorecard
from transferlab.report.stats import effect

EMPTY = scorecard([])
PAGES, SIZES = {"a_chapter": ("A question?", "../notebooks/a.html")}, ("cpu", "gpu", "paper")
SORTED = re.compile(r'<tr id="(\w+)".*?data-sure="(.*?)" data-effect="(.*?)"', re.DOTALL)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (0.04, "no points more or fewer"),
        (-0.42, "0.4 points fewer"),
        (1.0, "1.0 points more"),
        (-9.94, "9.9 points fewer"),
        (18.7, "19 points more"),
    ],
)
def test_differences_agree_with_the_numbers_beside_them(points, words):
    assert more(points) == words


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.0, "> .99"),
        (0.995, "> .99"),
        (0.0342, ".034"),
        (0.5, ".5"),
        (0.0099, ".0099"),
        (0.0001, "< .001"),
        (None, ""),
    ],
)
def test_p_has_two_digits_and_is_never_one(p, words):
    assert p_value(p) == words.replace(" ", "\u00a0")


def test_numbers_have_a_true_minus_and_zero_has_none():
    assert (number(-1.25, 2), number(0.0), number(3), number(-0.04)) == ("\u22121.25", "0.0", "+3.0", "0.0")
    assert number(92.04, sign=False) == "92.0"


def test_correlations_have_two_decimals():
    found = effect([0.24, 0.23, 0.26])
    assert interval(found, "points").startswith("+0.2 points, 95% interval +0.2 to +0.3, n = 3 repetitions")
    assert interval(found, "rank correlation").startswith("+0.24 rank correlation, 95% interval +0.21 to +0.28")
    assert interval(effect([0.24]), "rank correlation") == "+0.24 rank correlation; one repetition has no interval"
    card = scorecard_table(
        scorecard([verdict(values=[0.24, 0.23, 0.26], unit="rank correlation", margin=0.1)]), PAGES, SIZES
    )
    assert "+0.24 [+0.21, +0.28] rank correlation; bar above 0" in card.markup


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "+2.0 [+1.5, +2.5] points; bar above 0"),
        ({"side": "below", "bar": 3}, "+2.0 [+1.5, +2.5] points; bar below 3"),
        ({"side": "equal", "margin": 1}, "+2.0 [+1.5, +2.5] points; bar within ±1"),
        ({"unit": "% kept", "bar": 92, "values": [93, 94, 95]}, "94.0 [91.5, 96.5]%; bar above 92"),
        ({"values": [2.0]}, "+2.0 points, one repetition; bar above 0"),
    ],
)
def test_what_decided_stands_beside_its_bar(given, words):
    assert bracketed(verdict(**given).parts[0]) == words


def test_a_drawing_has_the_interval_the_bar_and_the_claimed_side():
    drawn = drawing(verdict(side="below", bar=3).parts[0])
    at = {
        name: float(re.search(rf'tl-{name}".*? (?:x|x1|cx)="([\d.]+)"', drawn)[1]) for name in ("bar", "range", "mean")
    }
    assert at["range"] < at["mean"] < at["bar"]
    assert re.search(r'tl-claimed" x="0.0" width="([\d.]+)"', drawn)[1] == f"{at['bar']:.1f}"
    assert drawing(verdict(side="equal", margin=1).parts[0]).count("tl-bar") == 2


def test_chips_have_a_sign_and_a_word():
    assert text(chip(verdict())).split() == ["✓", "holds", "here"]
    assert text(chip(verdict(side="below"))).split() == ["✗", "does", "not", "hold", "here"]
    assert "no effect here" in text(chip(verdict(values=[0.1, -0.1, 0.05])))
    assert "(small)" in chip(verdict(values=[0.1, 0.11, 0.12]))
    assert re.search(r"undecided: needs about \d+ repetitions", text(chip(verdict(values=[1, -1, 2]))))
    assert "more than 100 repetitions" in chip(verdict(values=[9, -9, 20]))


def test_a_card_has_every_part_with_its_number_and_p():
    card = VerdictCard(several(width=VALUES, depth=[-2.0, -2.2, -1.8]))._repr_html_()
    rows = re.findall(r"<tr [^>]*>(.*?)</tr>", card, re.DOTALL)
    assert [text(row).split()[0] for row in rows] == ["width", "depth"]
    assert "◐ in part" in text(card)
    assert "holds: width; does not hold: depth" in text(card)
    assert text(card).count("corrected") == 2
    assert 'data-low="' in rows[0] or 'data-low="' in card
    lacking = (
        "At each learning rate, on validation images; At each length of training; A check of its own that the setting"
    )
    assert f"{lacking} can answer: not run." in text(card)


def test_a_card_says_when_its_rule_was_fixed():
    before, after = verdict(seen=[]), verdict(seen=[0, 1])
    assert "fixed on 2026-01-31, before these data" in VerdictCard(before)._repr_html_()
    assert "changed on 2026-01-31, after repetitions 0, 1 were seen" in VerdictCard(after)._repr_html_()


def test_a_tile_shows_the_number_that_made_its_verdict():
    mixed = several(width=VALUES, depth=[-2.0, -2.2, -1.8])
    assert deciding(mixed).startswith("depth: \u22122.0")
    assert deciding(verdict()) == bracketed(verdict().parts[0])
    assert spans([7, 0, 1, 2, 4, 5]) == "0 to 2, 4, 5, 7"


def test_an_equivalence_that_failed_prints_no_p():
    row = re.search(r"<tr [^>]*>(.*?)</tr>", VerdictCard(verdict(side="equal", margin=2.1))._repr_html_(), re.DOTALL)[1]
    assert "open" in text(row)
    assert " p " not in text(row)


def test_a_verdict_names_what_other_scales_say_of_the_same_claim():
    here, there = verdict(), replace(verdict(values=[-2.0, -2.2, -1.8]), scale="gpu")
    words = text(VerdictCard(here, [there])._repr_html_())
    assert "At size gpu : ✗ does not hold here \u22122.0 [\u22122.5, \u22121.5] points; bar above 0" in words


def test_a_claim_of_our_own_is_said_to_be_one_and_has_no_row_on_the_scorecard():
    card = VerdictCard(verdict("A1"))._repr_html_()
    assert "our hypothesis" in card
    assert "scorecard.html" not in card
    assert 'href="../book/scorecard.html#I3"' in VerdictCard(verdict("I3"))._repr_html_()


def test_in_short_has_claims_numbers_and_advice():
    box = Short([verdict()], None, ["It does.", "By 2 points."], "do it.", "a small network.")
    words = text(box._repr_html_())
    for part in (
        claim("I3").sentence,
        "holds here",
        "+2.0 [+1.5, +2.5]",
        "It does.",
        "What to do: do it.",
        "Reach: a small",
    ):
        assert part in words
    assert box.answer == "It does."


def test_the_tally_counts_a_measurement_once_and_our_hypotheses_apart():
    one, shared = verdict("I2"), replace(verdict("I4"), same_as="I2")
    words = text(tally_html(scorecard([one, shared, verdict("L2")])))
    assert "Of 43 claims: ✓ holds here 1" in words
    assert "Of 9 hypotheses of our own: ✓ holds here 1" in words
    assert "counted once (1 left out)" in words


def test_a_scorecard_row_links_to_its_card_and_back():
    card = scorecard_table(scorecard([verdict("I3"), verdict("I3", scale="gpu")]), PAGES, SIZES)
    assert card.markup.count('id="I3"') == 1
    assert card.markup.count('href="../notebooks/a.html#verdict-I3"') == 2
    row = card.markup[card.markup.index('id="I3"') :]
    assert row[: row.index("</tr>")].count("At size <code>") == 2
    assert re.findall(r'<span title="(\w+)"( class="tl-done")?>', row[: row.index("</tr>")]) == [
        ("cpu", ' class="tl-done"'),
        ("gpu", ' class="tl-done"'),
        ("paper", ""),
    ]


def test_what_was_not_tested_is_a_line_a_paper():
    """Each claim has its place all the same, so that an address may name it."""
    card = scorecard_table(scorecard([verdict("I3")]), PAGES, SIZES)
    lines = re.findall(r'<tr class="tl-rest">(.*?)</tr>', card.markup, re.DOTALL)
    assert len(lines) == 5
    assert [len(re.findall("<li id=", line)) for line in lines] == [8, 13, 10, 10, 11]


def test_rows_can_be_sorted_by_how_sure_and_how_large():
    """How many half-widths the least certain part lies from its bar; how far the first part does."""
    rows = scorecard(
        [verdict("I3", values=[1.0, 2.0, 3.0], bar=1), verdict("I7", values=[0.0, 0.2, 0.1], side="equal", margin=1)]
    )
    markup = scorecard_table(rows, PAGES, SIZES).markup
    found = {name: (float(sure), float(away)) for name, sure, away in SORTED.findall(markup)}
    assert found["I3"] == pytest.approx((1 / (4.3027 / 3**0.5), 1.0), abs=1e-3)
    assert found["I7"] == pytest.approx((0.9 / (0.43027 / 3**0.5), 0.9), abs=1e-3)


def test_a_tile_says_its_claim_and_what_decided():
    shown = scorecard([verdict("I3"), verdict("I3", scale="gpu", values=[-4.0, -4.1, -3.9]), verdict("L2")])
    tiles = dict(
        re.findall(
            r'<a class="tl-tile.*?" href="(.*?)".*?aria-label="(.*?)"',
            tiles_html(shown, PAGES, "score.html"),
            re.DOTALL,
        )
    )
    assert len(tiles) == 53
    assert tiles["../notebooks/a.html#verdict-I3"] == (
        f"I3: {claim('I3').sentence} holds here; +2.0 [+1.5, +2.5] points; bar above 0"
    )
    assert tiles["score.html#G1"] == f"G1: {claim('G1').sentence} not tested"
    assert 'id="verdict-I3"' in VerdictCard(verdict("I3"))._repr_html_()
    assert 'href="../book/scorecard.html#I3"' in VerdictCard(verdict("I3"))._repr_html_()
