"""The decision table, against a second implementation and known cases; and what a rule's hash covers."""

import ast
import inspect
import itertools
import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from verdicts import Numbers

from transferlab.arms import advice, factors, tuning
from transferlab.errors import UserError
from transferlab.report import cards, contrasts, rules, theme
from transferlab.report.fingerprint import fingerprint
from transferlab.report.rules import Finding, Part, Rule, Verdict, above, below, decide, equal, find, judge, order
from transferlab.report.stats import effect

SEEDS = 8


def around(mean: float, low: float, seeds: int = SEEDS) -> list[float]:
    """Numbers by seed with this mean, whose 95% interval starts at `low`."""
    spread = (mean - low) * math.sqrt(seeds - 1) / stats.t.ppf(0.975, seeds - 1)
    return [mean + spread * (-1) ** i for i in range(seeds)]


class Study:
    """What a rule asks of a study: numbers by seed of each part, in all and on each target."""

    scale, name, uneven = "cpu", "a_chapter", False

    def __init__(self, values, targets=None) -> None:
        self.values, self.of = values, targets or {}
        self.targets, self.seeds = list(self.of) or ["all"], list(range(SEEDS))

    def only(self, target: str) -> "Study":
        return Study(self.of[target])

    def read(self, name: str) -> pd.Series:
        if name not in self.values:
            raise UserError(f"part (={name}): has no arms here")
        return pd.Series(self.values[name], dtype=float)


def verdict(parts, check=None, targets=None, unit: str = "points", **about) -> Verdict:
    """The verdict on parts by name: each its numbers by seed, and what else `Part` takes."""
    of = lambda name, more: Part(lambda study: study.read(name), **more)  # noqa: E731
    made = [{n: of(n, more) for n, (_, more) in given.items()} for given in (parts, check or {})]
    values = {n: values for n, (values, _) in (parts | (check or {})).items()}
    return judge(Rule("G1", made[0], unit, "2026-01-31", made[1]), Study(values, targets), **about)


def one(mean: float, low: float, check=None, targets=None, **part) -> Verdict:
    """The verdict on one part of this mean, whose interval starts at `low`."""
    on = {target: {"part": values} for target, values in (targets or {}).items()}
    return verdict({"part": (around(mean, low), part)}, check, on)


SOME = effect(around(1.0, 0.5))


def finding(state: str, p: float | None, name: str = "") -> Finding:
    return Finding(name or state, "above", 0.0, 1.0, "points", SOME, state, p, {})


# ------------------------------------------------------------------------------------------- a second implementation


def state_by_hand(f: Finding) -> str:
    low, high, bar, margin = f.effect.low, f.effect.high, f.bar, f.margin
    if f.side == "equal":
        return "holds" if max(abs(low), abs(high)) < margin else "fails" if low > margin or high < -margin else "open"
    right, wrong = (low > bar, high < bar) if f.side == "above" else (high < bar, low > bar)
    null = bar == 0 and max(abs(low), abs(high)) < margin
    return "holds" if right else "fails" if wrong else "null" if null else "open"


def p_by_hand(f: Finding, values: list[float]) -> float | None:
    test = lambda x, side="two-sided": stats.ttest_1samp(values, x, alternative=side).pvalue  # noqa: E731
    inside = 2 * max(test(-f.margin, "greater"), test(f.margin, "less"))
    if f.side == "equal":
        return {"holds": inside, "open": None, "fails": test(math.copysign(f.margin, np.mean(values)))}[f.state]
    return inside if f.state == "null" else test(f.bar)


def word_by_hand(found: list[tuple[str, float | None]], checks: list[str], turned: bool) -> str:
    """The word, from the parts' states and p values, the checks' states, and whether a target contradicts a part."""
    if set(checks) - {"holds"}:
        return "not testable here"
    states = [state for state, _ in found]
    if states == ["holds"] * len(states):
        return "in part" if turned else "holds here"
    ps = [1.0 if state == "open" else p for state, p in found]
    adjusted = {i: p * (len(ps) - rank) for rank, (p, i) in enumerate(sorted((p, i) for i, p in enumerate(ps)))}
    worst, counted = 0.0, set()
    for i, p in adjusted.items():  # smallest first
        worst = max(worst, p)
        counted.add(states[i] if worst < 0.05 else "open")
    if "holds" in counted:
        return "in part" if counted & {"fails", "null"} else "undecided"
    if "fails" in counted:
        return "in part" if turned else "does not hold here"
    return "no effect here" if counted == {"null"} else "undecided"


sides = st.sampled_from(["above", "below", "equal"])
a_part = st.tuples(st.floats(-3, 3), st.floats(0.05, 3), sides, st.sampled_from([0.0, 0.0, -1.0, 0.5]))


@settings(max_examples=80, deadline=None)
@given(st.lists(a_part, min_size=1, max_size=4), st.lists(a_part, max_size=1))
def test_every_word_follows_from_interval_bar_side_margin_and_p(parts, checks):
    def made(drawn, kind):
        given = [(around(mean, mean - half), side, bar) for mean, half, side, bar in drawn]
        more = [{"side": side, "margin": 1.0} | ({} if side == "equal" else {"bar": bar}) for _, side, bar in given]
        return {f"{kind} {i}": (values, m) for i, ((values, *_), m) in enumerate(zip(given, more, strict=True))}

    wanted, tested = made(parts, "part"), made(checks, "check")
    found = verdict(wanted, tested)
    for f in [*found.parts, *found.checks]:
        assert f.state == state_by_hand(f)
        p = p_by_hand(f, (wanted | tested)[f.name][0])
        assert (f.p is None) == (p is None)
        assert f.p is None or f.p == pytest.approx(p, rel=1e-6, abs=1e-12)
    states = [(f.state, f.p) for f in found.parts]
    assert found.word == word_by_hand(states, [f.state for f in found.checks], turned=False)


told = st.tuples(st.sampled_from(["holds", "fails", "null", "open"]), st.floats(0.0001, 0.0499))


@given(st.lists(told, min_size=1, max_size=5))
def test_every_word_follows_from_states_and_p(found):
    word, parts = decide([finding(state, p, f"{i}") for i, (state, p) in enumerate(found)])
    assert word == word_by_hand(found, [], turned=False)
    assert word in theme.VERDICT
    assert [f.name for f in parts] == [f"{i}" for i in range(len(found))]


# -------------------------------------------------------------------------------------------------------- known cases


@pytest.mark.parametrize("part", [{"paper": 2.6}, {"bar": 2.6}])
def test_an_interval_that_excludes_its_bar_decides_at_any_width(part):
    found = one(20, 15, **part)
    assert (found.word, found.why, found.needed) == ("holds here", "", None)
    assert (found.parts[0].effect.low, found.parts[0].effect.high) == pytest.approx((15, 25))


def test_the_null_of_grown_or_wide():
    found = one(-0.015, -0.74, paper=4.0)
    assert (found.word, found.parts[0].state, found.parts[0].margin) == ("no effect here", "null", 1.0)
    assert found.p == found.parts[0].p < 0.05


@pytest.mark.parametrize(
    ("last", "word", "why"),
    [
        ((-1.9, -2.2), "in part", "holds: wider, two layers; does not hold: deeper"),
        ((-0.2, -1.4), "undecided", "2 of 3 parts; needs about 35 repetitions"),
        ((1.0, 0.5), "holds here", "every part holds"),
    ],
)
def test_the_parts_of_wider_or_deeper(last, word, why):
    parts = {"wider": (0.9, 0.5), "two layers": (1.3, 0.9), "deeper": last}
    found = verdict({name: (around(*of), {"margin": 1.0}) for name, of in parts.items()})
    assert (found.word, found.why) == (word, why)
    assert found.p == (max(f.p for f in found.parts) if word == "holds here" else None)


def test_a_target_on_the_other_side_makes_it_in_part():
    on = {"near": around(-3, -4), "far": around(2, 1), "level": around(0, -1)}
    found = one(-2.7, -3.6, side="above", targets=on)
    assert (found.parts[0].state, found.word, found.why) == ("fails", "in part", "it holds on: far")
    found = one(2, 1, targets=on)
    assert (found.word, found.why) == ("in part", "the opposite on: near")


def test_an_equality_that_was_not_shown_has_no_p():
    found = one(0.5, -0.1, side="equal", margin=1.0)
    assert (found.word, found.p, found.parts[0].p) == ("undecided", None, None)
    assert one(0.1, -0.3, side="equal", margin=1.0).word == "holds here"
    assert one(2.1, 1.7, side="equal", margin=1.0).word == "does not hold here"


# ------------------------------------------------------------------------------------------ the table, line by line

HOLD, FAIL, NULL, OPEN = (finding(*of) for of in (("holds", 0.001), ("fails", 0.001), ("null", 0.001), ("open", 0.4)))
WEAK = finding("fails", 0.03)  # not below 5% any more beside another part that is not stronger


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([HOLD], "holds here"),
        ([HOLD, HOLD], "holds here"),
        ([finding("holds", 0.04), finding("holds", 0.04)], "holds here"),  # all of them: no correction
        ([FAIL], "does not hold here"),
        ([FAIL, OPEN, NULL], "does not hold here"),
        ([HOLD, FAIL], "in part"),
        ([HOLD, NULL], "in part"),
        ([HOLD, FAIL, OPEN], "in part"),
        ([NULL], "no effect here"),
        ([NULL, NULL], "no effect here"),
        ([OPEN], "undecided"),
        ([HOLD, OPEN], "undecided"),
        ([NULL, OPEN], "undecided"),
        ([HOLD, WEAK], "in part"),  # the last of two in Holm's order is not multiplied
        ([HOLD, WEAK, OPEN], "undecided"),
        ([WEAK, OPEN], "undecided"),
        ([WEAK], "does not hold here"),
    ],
)
@pytest.mark.parametrize(
    ("checks", "testable"), [([], True), ([HOLD], True), ([HOLD, OPEN], False), ([NULL], False), ([FAIL], False)]
)
def test_the_first_line_that_applies(parts, word, checks, testable):
    assert decide(parts, checks)[0] == (word if testable else "not testable here")


def test_a_rule_has_a_part():
    with pytest.raises(UserError, match=r"parts \(=0\): must be one or more"):
        decide([])


def test_what_counts_only_before_holm_is_open_and_said():
    word, parts = decide([finding("fails", 0.03, "weak"), finding("open", 0.4, "rest")])
    found = Verdict("G1", "cpu", "a_chapter", word, parts, [], "points", [0, 1])
    assert [(f.state, f.counts, f.p_holm) for f in parts] == [("fails", "open", 0.06), ("open", "open", None)]
    assert found.why.startswith("0 of 2 parts; ")
    assert found.why.endswith("; before correcting over the parts also: weak")


def test_the_failed_check_is_named_and_decides_first():
    check = {"baseline": (around(-1, -2), {}), "long enough": (around(1, 0.5), {})}
    found = one(5, 4, check=check, targets={"a": around(-5, -6), "b": around(9, 8)})
    assert (found.word, found.why) == ("not testable here", "the check of the setting failed: baseline")
    assert (found.p, found.needed, found.small) == (None, None, False)
    assert [f.name for f in found.checks] == list(check)


def test_p_of_a_conjunction_is_the_largest_and_of_a_failure_the_smallest():
    found = verdict({"sure": (around(5, 4), {}), "less sure": (around(1, 0.2), {})})
    assert found.p == found.parts[1].p > found.parts[0].p
    found = verdict({"sure": (around(-5, -6), {}), "less sure": (around(-1, -1.8), {})})
    assert found.word == "does not hold here"
    assert found.p == found.parts[0].p_holm == 2 * found.parts[0].p


@pytest.mark.parametrize(
    ("mean", "low", "part", "small"),
    [
        (0.5, 0.2, {}, True),
        (-0.5, -0.8, {"side": "below"}, True),
        (0.5, 0.2, {"paper": 1.0}, False),  # the margin is half of that
        (0.9, 0.5, {}, False),  # reaches over the margin
        (0.5, 0.2, {"bar": -1}, False),  # at least as good: no difference is asked
        (0.1, -0.1, {"side": "equal", "margin": 1.0}, False),
    ],
)
def test_what_holds_may_be_small(mean, low, part, small):
    found = one(mean, low, **part)
    assert (found.word, found.small) == ("holds here", small)
    assert found.why == ("small: inside what counts as no difference" if small else "")


def test_no_effect_is_said_of_a_difference_from_nothing_only():
    found = one(-1.0, -1.2, bar=-1)
    assert (found.word, found.why) == ("undecided", "too near its bar to tell")  # more repetitions would not do


def test_signs_of_means_decide_nothing():
    on = {"a": around(-1, -9), "b": around(3, 2)}
    assert one(1, 0.5, targets=on).word == "holds here"


# -------------------------------------------------------------------------------------------- targets and families


def test_targets_share_five_percent():
    on = {t: around(-1, -1.9) for t in "abcd"}
    found = one(2, 1, targets=on).parts[0]
    half = stats.t.interval(1 - 0.05 / 4, SEEDS - 1, scale=stats.sem(on["a"]))[1]
    assert found.targets["a"].half_width == pytest.approx(half)
    assert found.against == []  # each alone would exclude the bar at 95%
    assert effect(on["a"]).high < 0


def test_a_target_without_the_arms_is_left_out():
    parts = {"wide": (around(2, 1), {}), "everywhere": (around(2, 1), {})}
    both, few = {"wide": around(2, 1), "everywhere": around(2, 1)}, {"everywhere": around(-9, -9.1)}
    found = verdict(parts, targets={"a": both, "b": both, "c": few})
    assert [list(f.targets) for f in found.parts] == [["a", "b"], ["a", "b", "c"]]
    assert (found.word, found.why) == ("in part", "the opposite on: c")


def test_one_target_is_no_second_opinion():
    assert one(2, 1, targets={"a": around(-5, -6)}).parts[0].targets == {}


def test_no_target_contradicts_an_equality():
    on = {"a": around(5, 4), "b": around(-5, -6)}
    assert one(0.1, -0.3, side="equal", margin=1.0, targets=on).word == "holds here"


def test_families_are_five_or_more_and_pacs_is_one():
    domains = {f"pacs/{d}": around(m, m - 0.5) for d, m in (("photo", 1), ("sketch", 3))}
    four = {t: around(m, m - 0.5) for t, m in (("flowers102", 1.5), ("caltech101", 2.5), ("scene15", 2))} | domains
    assert one(2, 1, targets=four).parts[0].families is None
    found = one(2, 1, targets=four | {"mnist": around(-9, -9.5)})
    family = found.parts[0].families
    by_hand = stats.ttest_1samp([1.5, 2.5, 2, 2, -9], 0).confidence_interval()
    assert (family.n, family.low, family.high) == pytest.approx((5, by_hand.low, by_hand.high))
    assert found.parts[0].only_here
    assert not one(2, 1, targets=four | {"mnist": around(2.1, 1.6)}).parts[0].only_here


def test_a_contrast_uses_the_seeds_that_all_its_arms_have():
    values, study = pd.Series([1.0, 1.1, 0.9, float("nan")]), Numbers([0, 0, 0, 0])
    part = Part(lambda _: values)
    with pytest.raises(UserError, match="must be finite numbers"):
        find("it", part, study, "points")
    study.uneven = True
    assert find("it", part, study, "points").effect.n == 3


def test_a_target_that_a_contrast_cannot_ask_is_named():
    study = Numbers([1, 1.1, 0.9], {"a": [1, 1.1, 0.9], "b": [1, 1.2, 0.8]})

    def of(asked: Numbers) -> pd.Series:
        if asked.targets == ["all"] and asked.values == [1, 1.2, 0.8]:
            raise UserError("target (=b): gains nothing")
        return pd.Series(asked.values, dtype=float)

    found = find("it", Part(of), study, "points")
    assert (list(found.targets), found.left_out) == (["a"], ["b"])


# --------------------------------------------------------------------------------------- margins, seeds, provenance


@pytest.mark.parametrize(
    ("part", "unit", "margin"),
    [
        (above(None), "points", 1.0),
        (above(None, paper=4.0), "points", 1.0),
        (below(None, paper=-0.9), "points", 0.45),
        (above(None), "% kept", 5.0),
        (above(None, 92.0, paper=8.0), "% kept", 4.0),
        (equal(None, 0.3), "points", 0.3),
        (above(None, paper=0.2, margin=2.0), "points", 2.0),
    ],
)
def test_margins(part, unit, margin):
    assert part.within(unit) == margin


@pytest.mark.parametrize(("given", "error"), [({"side": "over"}, r"side \(=over\)"), ({"margin": 0}, r"margin \(=0\)")])
def test_a_part_says_what_it_is(given, error):
    with pytest.raises(UserError, match=error):
        Part(None, **given)


def test_seeds_that_every_open_part_would_need():
    parts = {"near": (around(0.5, -0.5), {}), "wild": (around(0, -2), {}), "sure": (around(3, 2), {})}
    found = verdict(parts)
    deviation = np.std(parts["wild"][0], ddof=1)
    half = lambda n: stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n)  # noqa: E731
    assert (found.word, found.parts[0].state) == ("undecided", "open")
    assert half(found.needed) <= 0.5 < half(found.needed - 1)
    assert found.parts[0].needed < found.needed
    assert one(0, -20).why == "needs more than 100 repetitions"
    assert one(2, 1).needed is None


def test_one_repetition_decides_nothing():
    found = verdict({"part": ([3.0], {})})
    assert (found.word, found.why) == ("undecided", "needs more than 100 repetitions")


def test_a_verdict_says_what_it_rests_on():
    found = one(2, 1)
    assert (found.claim, found.scale, found.chapter, found.unit) == ("G1", "cpu", "a_chapter", "points")
    assert (found.seeds, found.fixed, found.rule) == (list(range(SEEDS)), "2026-01-31", "")
    assert found.fixed_before


@pytest.mark.parametrize(("seen", "before"), [([], True), ([9], True), ([3, 9], False)])
def test_a_rule_is_fixed_before_seeds_that_it_had_not_seen(seen, before):
    assert verdict({"part": (around(2, 1), {})}, seen=seen).fixed_before == before


# ------------------------------------------------------------------------------------------------------- fingerprints

DESIGN = """
from transferlab import scales

CUTS = {"cpu": (1, 2)}


def design(scale, seeds):
    return [({"arm": "a", "cut": cut}, None) for cut in CUTS[scale]]
"""
RULE = '''
from transferlab.report import Rule, above
from transferlab.report.contrasts import kept_share

BAR = 0.5


def lead(study):
    """Points ahead."""
    return kept_share(study.arm(arm="a"), halved(study))


def halved(study):
    return study.arm(arm="b") / 2


def behind(study):
    return -study.arm(arm="a")


WIDE = {"wide": above(lead, BAR)}
DEEP = {"deep": above(behind, 0.25)}
RULES = [Rule("G1", WIDE, fixed="2026-01-31"), Rule("G2", DEEP, fixed="2026-01-31")]
'''
ARMS = [({"arm": "a", "cut": 1}, "flowers102"), ({"arm": "b", "cut": 2}, "flowers102")]


def hash_of(claim: str = "G1", change: tuple[str, str] = ("", ""), arms=ARMS) -> str:
    """The hash of a rule in cells where something is changed."""
    assert change[0] in DESIGN + RULE
    return fingerprint(claim, [cell.replace(*change) if change[0] else cell for cell in (DESIGN, RULE)], arms)


@pytest.mark.parametrize(
    "change",
    [
        ("BAR = 0.5", "BAR = 0.5  # a comment"),
        ("BAR = 0.5", "# a comment\n\n\nBAR = 0.50"),
        ("Points ahead.", "By how many points it is ahead."),
        ('    """Points ahead."""\n', ""),
        (
            'kept_share(study.arm(arm="a"), halved(study))',
            "kept_share(\n        study.arm(arm='a'),\n        halved(study),\n    )",
        ),
        ("0.25", "0.75"),  # another claim's bar
        ("return -study", "return 3 * study"),  # another claim's estimator
        ("import Rule, above", "import Rule, above, below"),
    ],
)
def test_a_hash_does_not_change_with(change):
    assert hash_of(change=change) == hash_of()


@pytest.mark.parametrize(
    "change",
    [
        ("BAR = 0.5", "BAR = 0.6"),
        ('return study.arm(arm="b") / 2', 'return study.arm(arm="b") / 3'),  # what an estimator asks
        ("above(lead, BAR)", "above(lead, BAR, paper=2.0)"),
        ("above(lead, BAR)", "above(behind, BAR)"),
        ('"wide": above', '"wider": above'),
        ('WIDE, fixed="2026-01-31"', 'WIDE, fixed="2026-02-01"'),
        ('Rule("G1", WIDE,', 'Rule("G1", WIDE, unit="% kept",'),
    ],
)
def test_a_hash_changes_with(change):
    assert hash_of(change=change) != hash_of()
    assert hash_of("G2", change) == hash_of("G2")


@pytest.mark.parametrize("arms", [ARMS[:1], [*ARMS, ({"arm": "c"}, "flowers102")], [(f, "mnist") for f, _ in ARMS]])
def test_a_hash_changes_with_arms_and_targets(arms):
    assert hash_of(arms=arms) != hash_of()
    assert hash_of(arms=ARMS[::-1]) == hash_of()


def test_a_hash_changes_with_the_package_s_estimators(monkeypatch):
    """With those that the rule uses."""
    before, source = (hash_of("G1"), hash_of("G2")), inspect.getsource(contrasts)
    changed = source.replace("return 100 * (part - floor)", "return 10 * (part - floor)")
    assert changed != source
    monkeypatch.setattr(inspect, "getsource", lambda module: changed)
    assert hash_of("G1") != before[0]
    assert hash_of("G2") == before[1]


@pytest.mark.parametrize(("claim", "times"), [("G3", 0), ("G1", 2)])
def test_a_rule_is_written_once(claim, times):
    again = RULE + 'MORE = [Rule("G1", DEEP)]\n'
    with pytest.raises(UserError, match=rf"rule \(={claim}\): must be written once, is {times} times"):
        fingerprint(claim, [DESIGN, again], ARMS)


def test_a_hash_covers_every_step_that_makes_a_name():
    steps = 'DEEP = {"deep": above(behind, 0.25)}\nDEEP |= {"wide": above(lead, 0.5)}'
    once = [
        RULE.replace('DEEP = {"deep": above(behind, 0.25)}', text) for text in (steps, steps.replace("0.25", "0.75"))
    ]
    assert len({fingerprint("G2", [DESIGN, cell], ARMS) for cell in once}) == 2


def test_a_hash_does_not_change_with_a_docstring_inside():
    inside = '    def half(x):\n        """Half."""\n        return x / 2\n\n    return half(study.arm(arm="b"))'
    cells = [
        RULE.replace('    return study.arm(arm="b") / 2', text) for text in (inside, inside.replace("Half.", "A half."))
    ]
    assert len({fingerprint("G1", [DESIGN, cell], ARMS) for cell in cells}) == 1


# ------------------------------------------------------------------------------------------ orders over families


def ordered(ys, side: str = "above", more=None) -> Verdict:
    """The verdict on the order of families 1, 2 ... , with a second part of numbers by seed if there are some."""
    of = lambda study: pd.DataFrame({"x": range(len(ys)), "y": ys})  # noqa: E731
    parts = {"families": order(of, side)} | ({"part": above(lambda study: study.read("part"))} if more else {})
    return judge(Rule("F7", parts, "rank correlation", "2026-01-31"), Study({"part": more} if more else {}))


def test_an_order_is_decided_by_its_exact_p():
    rising = ordered([1, 2, 3, 4, 5, 6])
    assert (rising.word, rising.parts[0].effect.n, rising.parts[0].targets) == (rules.HOLDS, 6, {})
    assert rising.p == pytest.approx(2 / math.factorial(6))
    assert ordered([6, 5, 4, 3, 2, 1]).word == rules.FAILS
    assert ordered([6, 5, 4, 3, 2, 1], "below").word == rules.HOLDS
    almost = ordered([2, 1, 4, 3, 6, 5])  # .83: two of a hundred orders and more
    assert (almost.word, almost.need) == (rules.UNDECIDED, "needs more families of targets")
    assert "families" in cards.VerdictCard(almost)._repr_html_()


def test_an_order_stands_beside_parts_with_numbers_by_seed():
    both = ordered([1, 2, 3, 4, 5, 6], more=around(1.0, -0.5))
    assert [f.counts for f in both.parts] == ["holds", "open"]
    assert "repetitions" in both.need
    assert ordered([1, 2, 3, 4, 5, 6], more=around(1.0, 0.5)).word == rules.HOLDS


def test_an_order_is_never_small_and_no_number_of_seeds_decides_it():
    assert not ordered([1, 2, 3, 4, 5, 6]).small
    assert ordered([2, 1, 4, 3, 6, 5], more=around(1.0, 0.5)).need == "needs more families of targets"
    assert ordered([2, 1, 4, 3, 6, 5]).needed == rules.MANY + 1
    assert "sign flip" not in cards.VerdictCard(ordered([1, 2, 3, 4, 5, 6]))._repr_html_()


def test_a_number_a_family_is_judged_as_it_is():
    """What is claimed of new tasks: no number of seeds decides it, and none is left out or asked of a target alone."""
    values = pd.Series([1.0, -1.0, 2.0, -2.0, 0.5, 0.3], list("abcdef"))
    study = Study({"part": values}, targets={"one": {"part": [9.0]}, "other": {"part": [-9.0]}})
    study.uneven = True
    rule = Rule("A1", {"part": above(lambda study: study.read("part"), by_family=True)}, fixed="2026-01-31")
    study.read = lambda name: values
    found = judge(rule, study)
    (part,) = found.parts
    assert part.effect == effect(values)
    assert (part.targets, part.families, part.by_family) == ({}, None, True)
    assert found.need == "needs more families of targets"
    assert found.needed == rules.MANY + 1
    card = cards.VerdictCard(found)._repr_html_()
    assert "One number a family of targets, n = 6." in card
    assert "take fewer repetitions" not in card


def test_what_trains_nothing_has_no_rates_to_show():
    held = ordered([1, 2, 3, 4, 5, 6])
    assert "learning rate" in cards.VerdictCard(held)._repr_html_()
    assert "learning rate" not in cards.VerdictCard(held, trained=False)._repr_html_()


def test_the_hash_covers_what_is_imported_of_the_arms(monkeypatch):
    """And what that uses; nothing that is not imported."""
    design = "from transferlab.arms.factors import over_families\n\ndef design(scale, seeds): ..."
    rule = 'RULES = [Rule("F7", {"a": order(lambda s: over_families(s), "below")})]'
    cells, arms = [design, rule], [({"arm": "a"}, "mnist")]
    whole, others = inspect.getsource(factors), {m: inspect.getsource(m) for m in (contrasts, tuning, advice)}
    before = fingerprint("F7", cells, arms)

    def after(old: str, new: str) -> str:
        assert whole.count(old) == 1
        changed = others | {factors: whole.replace(old, new)}
        with monkeypatch.context() as patch:
            patch.setattr(inspect, "getsource", changed.get)
            return fingerprint("F7", cells, arms)

    assert after('"mnist": 5, "bccd": 6}', '"mnist": 6, "bccd": 5}') != before  # of the order, which it uses
    assert after("FEW = 4", "FEW = 3") == before


class Names(set):
    """A set of names that is gone through in an order of its own."""

    order = ("top", "below", "other", "FACTOR")

    def __iter__(self):
        return iter(sorted(super().__iter__(), key=lambda name: (*self.order, name).index(name)))


def test_a_hash_does_not_depend_on_the_order_in_which_names_are_followed(monkeypatch):
    """What a shared function uses is found, also where it was met before it counted as imported, and of each module."""
    source = {
        "one": "def top(x):\n    return below(x)\n\ndef below(x):\n    return FACTOR * x\n\nFACTOR = 2\n",
        "two": "def other(x):\n    return x + FACTOR\n\nFACTOR = 3\n",
    }
    hashing, plain = sys.modules[fingerprint.__module__], inspect.getsource
    modules = tuple(SimpleNamespace(__name__=name) for name in source)
    monkeypatch.setattr(hashing, "SHARED", modules)
    monkeypatch.setattr(inspect, "getsource", lambda m: source[m.__name__] if m in modules else plain(m))
    monkeypatch.setattr(hashing, "_used", lambda tree: Names(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)))
    cell = "from one import top\nfrom two import other\nRULES = [Rule('X', below(top) + other + FACTOR)]"
    found = set()
    for names in itertools.permutations(Names.order):
        monkeypatch.setattr(Names, "order", names)
        found.add(fingerprint("X", [cell], []))
    assert len(found) == 1
    for name, old, new in (("one", "FACTOR = 2", "FACTOR = 4"), ("two", "FACTOR = 3", "FACTOR = 4"), ("one", "*", "-")):
        with monkeypatch.context() as changed:
            changed.setitem(source, name, source[name].replace(old, new))
            assert fingerprint("X", [cell], []) not in found
