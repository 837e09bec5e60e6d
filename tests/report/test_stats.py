"""Statistics against scipy and by hand, and every branch of the verdicts."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from transferlab.errors import UserError
from transferlab.report.stats import (
    EXACT_SIGN_FLIPS,
    Judgement,
    by_group,
    effect,
    equivalence,
    holm,
    judge_all,
    judge_both,
    judge_direction,
    judge_equal,
    judge_not_worse,
    seeds_needed,
    sign_flip,
)

EIGHT = [1.2, 0.4, 2.1, -0.3, 0.9, 1.7, 0.2, 1.1]
samples = st.lists(st.floats(-100, 100).map(lambda v: round(v, 2)), min_size=2, max_size=10)


# -------------------------------------------------------------------------------------------------------------- effects


@pytest.mark.parametrize("values", [EIGHT, [-v for v in EIGHT], [0.1, -0.1], [5.0, 5.1, 4.9], [100.0, -3.0, 0.5]])
def test_effect_against_scipy(values):
    found, theirs = effect(values), stats.ttest_1samp(values, 0)
    interval = theirs.confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.deviation == pytest.approx(stats.tstd(values))
    assert found.n == len(values)
    assert found.half_width == pytest.approx((interval.high - interval.low) / 2)


def test_one_seed_has_no_interval():
    found = effect([3.0])
    assert (found.mean, found.low, found.high, found.p, found.p_sign, found.n) == (
        3.0,
        -math.inf,
        math.inf,
        1.0,
        1.0,
        1,
    )
    assert math.isnan(found.deviation)
    assert found.half_width == math.inf


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (2.0, 0.0), (-2.0, 0.0)])
def test_seeds_that_agree_to_the_bit(value, p):
    found = effect([value] * 4)
    assert (found.mean, found.low, found.high, found.p, found.deviation) == (value, value, value, p, 0.0)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.nan], [1.0, math.inf], [-math.inf, 2.0, 3.0]])
def test_what_is_no_effect(values):
    with pytest.raises(UserError, match=r"differences \(=\[.*\]\): must be finite numbers, one a seed"):
        effect(values)


def test_any_sequence_will_do():
    assert effect(np.array(EIGHT)) == effect(tuple(EIGHT)) == effect(EIGHT)
    assert effect(range(3)).mean == 1


@given(samples)
def test_effects_of_what_is_turned_around(values):
    found, turned = effect(values), effect([-v for v in values])
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert (turned.p, turned.p_sign) == pytest.approx((found.p, found.p_sign))
    assert found.low <= found.mean <= found.high


# ----------------------------------------------------------------------------------------------------------- sign flips


def test_three_seeds_by_hand():
    """Of eight patterns of (3, 2, 1), only +++ and --- reach a sum of 6; ++- and --+ reach 4."""
    assert sign_flip(np.array([3.0, 2.0, 1.0])) == 2 / 8
    assert sign_flip(np.array([3.0, 2.0, -1.0])) == 4 / 8
    assert sign_flip(np.array([3.0, -2.0, -1.0])) == 1  # a sum of nothing is reached by all


@pytest.mark.parametrize("values", [EIGHT, [1.0] * 8, [0.5, -0.5, 1.0], [2.0, 2.0, -1.0, 0.0]])
def test_sign_flip_against_scipy(values):
    theirs = stats.permutation_test((np.array(values),), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(np.array(values)) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("n", [1, 3, 6, 8, EXACT_SIGN_FLIPS])
def test_seeds_of_one_sign_reach_the_smallest_p(n):
    assert sign_flip(np.arange(1.0, n + 1)) == 2 / 2**n


def test_sums_that_differ_by_rounding_are_equal():
    """0.1 + 0.2 - 0.3 is not quite nothing."""
    assert sign_flip(np.array([0.1, 0.2, -0.3])) == 1
    assert sign_flip(np.array([0.1, 0.2, 0.3, -0.6])) == 1
    assert sign_flip(np.zeros(4)) == 1


def test_many_seeds_are_sampled():
    random = np.random.default_rng(1)
    values = random.normal(0.3, 1, EXACT_SIGN_FLIPS + 4)
    assert sign_flip(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)
    assert sign_flip(values) == sign_flip(values)
    assert 0 < sign_flip(np.ones(30)) < 0.001  # the pattern that was seen counts, so p is never 0


@given(samples)
def test_sign_flip_is_a_p(values):
    p = sign_flip(np.array(values))
    assert 2 / 2 ** len(values) <= p <= 1
    if abs(sum(values)) > 0:
        assert p == pytest.approx(
            np.mean([abs(np.dot(s, values)) >= abs(sum(values)) - 1e-9 for s in signs(len(values))])
        )


def signs(n: int):
    return itertools.product((1, -1), repeat=n)


# ---------------------------------------------------------------------------------------------------------- equivalence


@pytest.mark.parametrize("margin", [0.1, 0.5, 0.9, 1.5, 3.0])
def test_equivalence_against_two_tests(margin):
    below = stats.ttest_1samp(EIGHT, margin, alternative="less").pvalue
    above = stats.ttest_1samp(EIGHT, -margin, alternative="greater").pvalue
    assert equivalence(effect(EIGHT), margin) == pytest.approx(max(below, above))
    assert equivalence(effect([-v for v in EIGHT]), margin) == pytest.approx(max(below, above))


def test_equivalence_is_when_the_ninety_percent_interval_lies_within():
    interval = stats.ttest_1samp(EIGHT, 0).confidence_interval(0.9)
    assert equivalence(effect(EIGHT), interval.high + 1e-6) < 0.05
    assert equivalence(effect(EIGHT), interval.high - 1e-6) > 0.05


def test_equivalence_of_little():
    assert equivalence(effect([0.0]), 1.0) == 1
    assert equivalence(effect([0.5, 0.5]), 1.0) == 0
    assert equivalence(effect([1.5, 1.5]), 1.0) == 1
    assert equivalence(effect([-1.5, -1.5]), 1.0) == 1


@pytest.mark.parametrize("margin", [0, -1.0])
def test_no_margin(margin):
    with pytest.raises(UserError, match=rf"margin \(={margin}\): must be above 0"):
        equivalence(effect(EIGHT), margin)


# ----------------------------------------------------------------------------------------------------------------- Holm


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
        ([0.5, 0.9, 0.7], [1.0, 1.0, 1.0]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.001, 0.04, 0.8], [0.003, 0.08, 0.8]),
    ],
)
def test_holm(ps, adjusted):
    assert holm(ps) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(ps):
    adjusted = holm(ps)
    assert all(p <= a <= min(1, p * len(ps)) + 1e-12 for p, a in zip(ps, adjusted, strict=True))
    order = np.argsort(ps, kind="stable")
    assert [adjusted[i] for i in order] == sorted(adjusted)


# ---------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize(("deviation", "half"), [(1.0, 1.0), (1.0, 0.5), (2.0, 0.3), (0.1, 5.0)])
def test_seeds_needed_are_the_fewest(deviation, half):
    n = seeds_needed(deviation, half)
    width = lambda n: stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n)  # noqa: E731
    assert width(n) <= half
    assert n == 2 or width(n - 1) > half


def test_seeds_needed():
    assert seeds_needed(0.0, 1.0) == 2
    assert seeds_needed(1.0, 0.5) == 18  # tables: 1.96^2 / 0.5^2 is 15.4, and a few more for Student
    assert seeds_needed(1e9, 1e-3, most=40) == 40
    wanted = [seeds_needed(1.0, half) for half in (2.0, 1.0, 0.7, 0.5, 0.4)]
    assert wanted == sorted(wanted)
    assert [seeds_needed(d, 1.0) for d in (0.1, 1.0, 2.0)] == sorted(seeds_needed(d, 1.0) for d in (0.1, 1.0, 2.0))


# ------------------------------------------------------------------------------------------------------------- verdicts

CLEAR = effect([2.0, 2.2, 1.8, 2.1])  # about 1.8 to 2.3
SMALL = effect([0.1, -0.1, 0.05, -0.04])  # around 0, narrow
MIDDLE = effect([0.9, 1.1, 1.0, 0.8])  # about 0.74 to 1.16
NOISY = effect([5.0, -4.0, 1.0, 9.0])


@pytest.mark.parametrize(
    ("found", "relevant", "direction", "verdict", "why"),
    [
        (CLEAR, 1.0, 1, "supported", "the interval lies on the claimed side of zero"),
        (CLEAR, 1.0, -1, "contradicted", "the interval lies on the other side of zero"),
        (effect([-2.0, -2.2, -1.8]), 1.0, -1, "supported", "the interval lies on the claimed side of zero"),
        (effect([-2.0, -2.2, -1.8]), 1.0, 1, "contradicted", "the interval lies on the other side of zero"),
        (SMALL, 1.0, 1, "inconclusive", "the interval contains zero"),
        (SMALL, 1.0, -1, "inconclusive", "the interval contains zero"),
        (effect([0.0, 0.0]), 1.0, 1, "inconclusive", "the interval contains zero"),
        (effect([2.0]), 1.0, 1, "inconclusive", "too few or too noisy: n = 1"),
        (effect([2.0, 2.0]), 1.0, 1, "supported", "the interval lies on the claimed side of zero"),
    ],
)
def test_judge_direction(found, relevant, direction, verdict, why):
    against = (
        pytest.approx(found.p) if verdict == "contradicted" else 1.0
    )  # for a bound of zero the opposite's p is the effect's
    assert judge_direction(found, relevant, direction) == Judgement(verdict, why, found, against)


def test_a_clear_sign_is_not_enough_when_the_interval_is_too_wide():
    """An interval wider than the effect in question says nothing, even on one side of zero."""
    assert CLEAR.low > 0
    got = judge_direction(CLEAR, CLEAR.half_width * 0.99)
    needed = seeds_needed(CLEAR.deviation, CLEAR.half_width * 0.99)
    assert got.verdict == "inconclusive"
    though = "though the interval lies on the claimed side of zero"
    assert got.why == f"too few or too noisy, {though}: n = 4; about {needed} seeds would do"
    assert judge_direction(CLEAR, CLEAR.half_width * 1.01).verdict == "supported"


def test_judge_says_how_many_seeds_would_do():
    got = judge_direction(NOISY, 2.0)
    assert got.verdict == "inconclusive"
    assert got.why == f"too few or too noisy: n = 4; about {seeds_needed(NOISY.deviation, 2.0)} seeds would do"


@pytest.mark.parametrize(
    ("relevant", "direction", "message"),
    [
        (0, 1, r"relevant \(=0\): must be above 0"),
        (1.0, 0, r"direction \(=0\): must be one of 1, -1"),
        (1.0, 2, "direction"),
    ],
)
def test_judge_refuses(relevant, direction, message):
    with pytest.raises(UserError, match=message):
        judge_direction(CLEAR, relevant, direction)


@pytest.mark.parametrize(
    ("found", "margin", "verdict", "why"),
    [
        (SMALL, 1.0, "supported", "the effect lies within 1 of zero"),
        (CLEAR, 1.0, "contradicted", "the interval lies more than 1 from zero"),
        (effect([-2.0, -2.2, -1.8, -2.1]), 1.0, "contradicted", "the interval lies more than 1 from zero"),
        (MIDDLE, 1.0, "inconclusive", "the interval reaches beyond 1"),
        (effect([0.0]), 1.0, "inconclusive", "too few or too noisy: n = 1"),
        (
            NOISY,
            1.0,
            "inconclusive",
            f"too few or too noisy: n = 4; about {seeds_needed(NOISY.deviation, 1.0)} seeds would do",
        ),
        (effect([0.2, 0.2]), 0.5, "supported", "the effect lies within 0.5 of zero"),
    ],
)
def test_judge_equal(found, margin, verdict, why):
    got = judge_equal(found, margin)
    assert (got.verdict, got.why) == (verdict, why)
    assert got.effect == replace(
        found, p=equivalence(found, margin), p_sign=math.nan
    )  # signs would say something of zero
    assert got.test == f"equal within {margin:g}"


def test_no_difference_is_not_the_same_as_equal():
    """An interval that contains zero supports no claim of equality when it is wide."""
    assert judge_direction(NOISY, 100.0).why == "the interval contains zero"
    assert judge_equal(NOISY, 1.0).verdict == "inconclusive"


YES, NO, OPEN = (
    Judgement(v, f"why {v}", replace(CLEAR, n=n)) for n, v in enumerate(("supported", "contradicted", "inconclusive"))
)


@pytest.mark.parametrize("one", [YES, NO, OPEN])
def test_two_readings_that_agree(one):
    other = replace(one, why="another reason")
    assert judge_both(one, other) is one


def test_two_readings_that_contradict_are_as_sure_as_the_less_sure_one():
    sure, less = replace(NO, against=0.001), replace(NO, against=0.04)
    assert judge_both(sure, less) == judge_both(less, sure) == less
    assert judge_all({"a": judge_both(sure, less), "b": YES}).verdict == "inconclusive"  # Holm: 0.08


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (YES, NO, "one reading is supported, the other contradicted"),
        (NO, YES, "one reading is contradicted, the other supported"),
        (YES, OPEN, "one reading is supported, the other inconclusive (why inconclusive)"),
        (OPEN, YES, "one reading is inconclusive, the other supported (why inconclusive)"),
        (NO, OPEN, "one reading is contradicted, the other inconclusive (why inconclusive)"),
    ],
)
def test_two_readings_that_differ(first, second, why):
    assert judge_both(first, second) == Judgement("inconclusive", why, first.effect)


# ---------------------------------------------------------------------------------------------------- as good or better


@pytest.mark.parametrize(
    ("shift", "verdict", "why"),
    [
        (3.0, "supported", "the interval lies above -1"),
        (0.0, "supported", "the interval lies above -1"),  # no better, and not worse by the margin
        (-1.0, "inconclusive", "the interval contains -1"),
        (-3.0, "contradicted", "the interval lies below -1"),
    ],
)
def test_as_good_or_better(shift, verdict, why):
    noise = np.array([0.3, -0.3, 0.2, -0.2, 0.1, -0.1, 0.4, -0.4])
    got = judge_not_worse(effect(noise + shift), 1.0)
    assert (got.verdict, got.why) == (verdict, why)
    assert got.effect.p == pytest.approx(stats.ttest_1samp(noise + shift, -1.0).pvalue)
    assert got.test == "t, against -1"
    assert math.isnan(got.effect.p_sign)


def test_one_seed_has_no_p_against_a_margin():
    assert judge_not_worse(effect([0.5]), 1.0).effect.p == 1


def test_as_good_or_better_with_too_few_seeds_says_how_many_it_takes():
    assert judge_not_worse(effect([0.5]), 1.0).why == "too few or too noisy: n = 1"
    got = judge_not_worse(effect([8.0, -8.0, 3.0]), 1.0)
    assert (got.verdict, got.why) == (
        "inconclusive",
        f"too few or too noisy: n = 3; about {seeds_needed(got.effect.deviation, 1.0)} seeds would do",
    )
    with pytest.raises(UserError, match=r"margin .*: must be above 0"):
        judge_not_worse(effect(EIGHT), 0.0)


def test_groups_are_summarised_one_by_one():
    records = pd.DataFrame({"target": ["a"] * 8 + ["b"] * 2, "n": [1] * 10, "accuracy": [*EIGHT, 5.0, 7.0]})
    got = by_group(records, ["target", "n"], "accuracy")
    assert list(got.columns) == ["target", "n", "accuracy", "low", "high", "seeds"]
    assert got[["target", "n", "seeds"]].to_dict("records") == [
        {"target": "a", "n": 1, "seeds": 8},
        {"target": "b", "n": 1, "seeds": 2},
    ]
    for row, values in zip(got.to_dict("records"), (EIGHT, [5.0, 7.0]), strict=True):
        assert (row["accuracy"], row["low"], row["high"]) == (
            effect(values).mean,
            effect(values).low,
            effect(values).high,
        )
    assert by_group(records[:0], ["target"], "accuracy").empty


# ---------------------------------------------------------------------------------------------- claims of several parts


def contradicted(p: float, why: str = "why contradicted") -> Judgement:
    return replace(NO, against=p, why=why)


@pytest.mark.parametrize("one", [YES, contradicted(0.2), OPEN])
def test_parts_that_agree(one):
    assert judge_all({"alone": one}) is one
    assert judge_all({"first": one, "second": replace(one, why="another reason"), "third": one}) is one


def test_one_part_that_does_not_hold_contradicts_the_claim():
    no = contradicted(0.01)
    for parts in ({"this": YES, "that": no}, {"that": no, "this": YES}):
        found = judge_all(parts)
        assert (found.verdict, found.effect) == ("contradicted", no.effect)
        assert found.why == "supported: this; contradicted: that; the effect is that of: that"
        assert found.against == pytest.approx(0.02)  # Holm: the smallest of two


def test_contradictions_are_corrected_for_the_number_of_parts():
    """One part in ten lies on the wrong side at 1% by chance far too often."""
    parts = {f"part {i}": YES for i in range(9)} | {"tenth": contradicted(0.01)}
    found = judge_all(parts)
    assert (found.verdict, found.effect) == ("inconclusive", YES.effect)
    assert found.why.endswith("; contradicted: tenth")
    assert judge_all(parts | {"tenth": contradicted(0.004)}).verdict == "contradicted"


def test_of_several_contradictions_the_surest_is_shown():
    sure = replace(contradicted(0.001), effect=SMALL)
    found = judge_all({"a": YES, "b": contradicted(0.01), "c": sure, "d": OPEN})
    assert (found.verdict, found.effect) == ("contradicted", SMALL)
    assert found.why == "supported: a; contradicted: b, c; inconclusive: d (why inconclusive); the effect is that of: c"


def test_parts_that_are_open_leave_the_claim_open():
    found = judge_all({"a": YES, "b": OPEN, "c": OPEN})
    assert found == Judgement("inconclusive", "supported: a; inconclusive: b, c", YES.effect)
    found = judge_all({"a": OPEN, "b": YES})
    assert found == Judgement("inconclusive", "supported: b; inconclusive: a (why inconclusive)", OPEN.effect)


@pytest.mark.parametrize(
    ("judgement", "bound"),
    [
        (judge_direction(CLEAR, 1.0, -1), 0.0),
        (judge_equal(CLEAR, 1.0), 1.0),
        (judge_not_worse(effect([-3.1, -2.9, -3.3]), 1.0), -1.0),
    ],
)
def test_the_p_of_a_contradiction_is_that_of_a_t_test_against_the_bound(judgement, bound):
    values = {CLEAR.mean: [2.0, 2.2, 1.8, 2.1]}.get(judgement.effect.mean, [-3.1, -2.9, -3.3])
    assert judgement.verdict == "contradicted"
    assert judgement.against == pytest.approx(stats.ttest_1samp(values, bound).pvalue)
