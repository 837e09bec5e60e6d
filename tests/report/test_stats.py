"""Statistics against scipy and by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from transferlab.errors import UserError
from transferlab.report.stats import (
    EXACT_SIGN_FLIPS,
    MANY,
    brings,
    by_group,
    effect,
    equivalence,
    holm,
    seeds_needed,
    sign_flip,
    trend,
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
    assert equivalence(effect(EIGHT), margin) == pytest.approx(min(1, 2 * max(below, above)))
    assert equivalence(effect([-v for v in EIGHT]), margin) == pytest.approx(min(1, 2 * max(below, above)))


def test_equivalence_is_when_the_interval_lies_within():
    interval = stats.ttest_1samp(EIGHT, 0).confidence_interval(0.95)
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
    assert holm(ps) == pytest.approx([*multipletests(ps, method="holm")[1]] if ps else [])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(ps):
    adjusted = holm(ps)
    assert all(p <= a <= min(1, p * len(ps)) + 1e-12 for p, a in zip(ps, adjusted, strict=True))
    order = np.argsort(ps, kind="stable")
    assert [adjusted[i] for i in order] == sorted(adjusted)


# ---------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize(("deviation", "half"), [(1.0, 1.0), (1.0, 0.5), (2.0, 0.5), (0.1, 5.0)])
def test_seeds_needed_are_the_fewest(deviation, half):
    n = seeds_needed(deviation, half)
    width = lambda n: stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n)  # noqa: E731
    assert width(n) <= half
    assert n == 2 or width(n - 1) > half


def test_seeds_needed():
    assert seeds_needed(0.0, 1.0) == 2
    assert seeds_needed(1.0, 0.5) == 18  # tables: 1.96^2 / 0.5^2 is 15.4, and a few more for Student
    assert seeds_needed(1e9, 1e-3) == MANY + 1
    wanted = [seeds_needed(1.0, half) for half in (2.0, 1.0, 0.7, 0.5, 0.4)]
    assert wanted == sorted(wanted)
    assert [seeds_needed(d, 1.0) for d in (0.1, 1.0, 2.0)] == sorted(seeds_needed(d, 1.0) for d in (0.1, 1.0, 2.0))


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


def test_a_mean_of_records_names_its_runs():
    records = pd.DataFrame({"arm": "x", "accuracy": [2.0, 1.0, 3.0, 4.0, 5.0], "seed": [1, 0, 2, 5, 6]})
    assert "runs" not in by_group(records, ["arm"], "accuracy")
    records = records.assign(key=[f"k{seed}" for seed in records["seed"]], lr=[0.1, 0.1, 0.2, None, None])
    told = by_group(records, ["arm"], "accuracy")["runs"].item()
    assert told == "1 k0 0.1;2 k1;3 k2 0.2;4 k5 - 5;5 k6"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.2, 1.3, 1.1], "brings 1.2 points"),
        ([-1.2, -1.3, -1.1], "costs 1.2 points"),
        ([3.0, -1.0, 0.4], "brings 0.8 points (not clearly)"),
        ([2.0], "brings 2.0 points (not clearly)"),
    ],
)
def test_what_something_brings_in_words(values, words):
    assert brings(effect(values)) == words


# ----------------------------------------------------------------------------------------------- orders over families


def table(x, y) -> pd.DataFrame:
    return pd.DataFrame({"x": x, "y": y}, index=[f"family {i}" for i in range(len(x))])


@pytest.mark.parametrize(
    "y", [[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], [2, 1, 3, 4, 6, 5], [1, 1, 2, 2, 3, 3], [3, 1, 2, 6, 5, 4]]
)
def test_a_trend_is_spearmans_with_its_exact_p(y):
    x = [0.1, 0.2, 0.5, 0.7, 1.0, 3.0]
    found = trend(table(x, y))
    statistic = lambda order: stats.spearmanr(x, order).statistic  # noqa: E731
    seen = statistic(y)
    p = np.mean([abs(statistic(order)) >= abs(seen) - 1e-9 for order in itertools.permutations(y)])
    assert found.mean == pytest.approx(seen)
    assert found.p == found.p_sign == pytest.approx(p)
    assert (found.n, found.low <= found.mean <= found.high) == (6, True)


def test_the_interval_of_a_trend_is_bonett_and_wrights():
    found = trend(table(range(12), [2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]))
    half = 1.959964 * np.sqrt((1 + found.mean**2 / 2) / 9)
    assert found.low == pytest.approx(np.tanh(np.arctanh(found.mean) - half), abs=1e-5)
    assert found.high == pytest.approx(np.tanh(np.arctanh(found.mean) + half), abs=1e-5)
    assert 0 < found.p < 0.001  # of random orders: twelve are too many to count all


def test_a_trend_needs_three_families_and_is_none_of_ties():
    with pytest.raises(UserError, match=r"families \(=2\): must be three or more for a rank correlation"):
        trend(table([1, 2], [1, 2]))
    found = trend(table([1, 2, 3, 4], [5, 5, 5, 5]))
    assert (found.mean, found.p) == (0, 1)
    assert trend(table([1, 2, 3], [1, 2, 3])).low == -1
