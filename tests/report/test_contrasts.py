"""Estimators against scipy, statsmodels, brute force, or by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from transferlab.report.contrasts import (
    at_equal,
    inverted_pairs,
    kept_share,
    leave_one_out_best,
    page_trend,
    partial_correlation,
    peak,
    rank_correlation,
    slope_per_doubling,
    surest_inversion,
)

SEEDS = [3, 1, 7, 4]  # neither in order nor from zero
numbers = st.floats(-100, 100).map(lambda v: round(v, 2))


def table(columns, seeds=SEEDS, low: float = 1.0, high: float = 90.0) -> pd.DataFrame:
    """Return numbers that are always the same, all above zero."""
    drawn = np.random.default_rng(5).uniform(low, high, (len(seeds), len(columns)))
    return pd.DataFrame(drawn, pd.Index(seeds, name="seed"), columns)


def close(found: pd.Series, wanted: pd.Series) -> None:
    """Check numbers seed by seed."""
    pd.testing.assert_series_equal(found, wanted, check_names=False, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------------- shares and slopes


def test_a_share_is_of_what_lies_above_the_floor():
    part, whole = pd.Series([30.0, 20.0], [3, 1]), pd.Series([40.0, 50.0], [1, 3])  # by seed, not by place
    close(kept_share(part, whole).loc[[3, 1]], pd.Series([60.0, 50.0], [3, 1]))
    close(kept_share(part, whole, 10.0).loc[[3, 1]], pd.Series([50.0, 100 / 3], [3, 1]))
    close(kept_share(part, whole, pd.Series({3: 25.0, 1: 0.0})).loc[[3, 1]], pd.Series([20.0, 50.0], [3, 1]))


@given(numbers, st.floats(1, 50), st.floats(-0.5, 2), st.floats(0.1, 10), numbers)
def test_a_share_knows_no_zero_and_no_unit(floor, gain, share, unit, zero):
    one = lambda value: pd.Series({3: value * unit + zero})  # noqa: E731
    found = kept_share(one(floor + share * gain), one(floor + gain), one(floor))
    assert found[3] == pytest.approx(100 * share, abs=1e-6)


def test_a_slope_is_that_of_least_squares():
    values = table([20, 50, 125, 500])
    wanted = [stats.linregress(np.log2([20, 50, 125, 500]), row).slope for row in values.to_numpy()]
    close(slope_per_doubling(values), pd.Series(wanted, values.index))
    rising = pd.DataFrame([[4.0, 7.0, 13.0]], [3], ["1", "2", "8"])  # three more a doubling, columns as text
    assert slope_per_doubling(rising)[3] == pytest.approx(3.0)


def test_a_value_between_sizes_is_on_the_line():
    values = pd.DataFrame([[10.0, 30.0, 20.0], [1.0, 3.0, 2.0]], [3, 1], ["wide", "widest", "narrow"])
    sizes = pd.Series({"narrow": 40, "widest": 80, "wide": 60})  # in another order
    close(at_equal(values, sizes, 50), pd.Series([15.0, 1.5], [3, 1]))
    close(at_equal(values, sizes, pd.Series({1: 70, 3: 80})), pd.Series([30.0, 2.0], [3, 1]))
    close(at_equal(values, sizes, 81), pd.Series([np.nan, np.nan], [3, 1]))
    close(at_equal(values, sizes, 39), pd.Series([np.nan, np.nan], [3, 1]))
    each = pd.DataFrame([[60, 80, 40], [6, 8, 4]], [3, 1], values.columns)
    close(at_equal(values, each, pd.Series({3: 50, 1: 7})), pd.Series([15.0, 2.0], [3, 1]))


@pytest.mark.parametrize("column", ["a", "b", "c"])
def test_a_value_at_a_measured_size_is_the_measured_one(column):
    values, sizes = table(["a", "b", "c"]), table(["c", "a", "b"], low=10.0)
    close(at_equal(values, sizes, sizes[column]), values[column])


# ------------------------------------------------------------------------------------------------------------- ranks


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=9))
def test_a_rank_correlation_is_that_of_the_ranks(pairs):
    ranks = np.array([stats.rankdata(side) for side in zip(*pairs, strict=True)])
    wanted = np.corrcoef(ranks)[0, 1] if ranks.std(1).all() else 0.0
    assert rank_correlation(*zip(*pairs, strict=True)) == pytest.approx(wanted)


def test_last_bits_make_no_order():
    assert rank_correlation([1, 2, 3], [0.3, 0.1 + 0.2, 0.3]) == 0
    assert rank_correlation([1, 2, 3], [0.3, 0.1 + 0.2, 0.4]) == pytest.approx(stats.spearmanr([1, 2, 3], [1, 1, 2])[0])
    equal = pd.DataFrame([[0.3, 0.1 + 0.2, 0.5]] * 3)
    assert page_trend(equal) == page_trend(pd.DataFrame([[0.3, 0.3, 0.5]] * 3))
    assert inverted_pairs(equal, equal.iloc[:, [1, 0, 2]].set_axis([0, 1, 2], axis=1)).eq(0).all()


@pytest.mark.parametrize("rows", [[[1, 2, 3], [1, 3, 2], [2, 1, 3]], [[3, 2, 1], [1, 2, 3], [3, 1, 2]]])
def test_page_counts_the_permutations_that_rise_as_much(rows):
    statistic = lambda ranks: sum((1 + place) * rank for row in ranks for place, rank in enumerate(row))  # noqa: E731
    all_of_them = list(itertools.product(itertools.permutations((1, 2, 3)), repeat=3))
    as_much = sum(statistic(ranks) >= statistic(rows) for ranks in all_of_them)
    assert page_trend(pd.DataFrame(rows, dtype=float)) == pytest.approx(as_much / len(all_of_them))


# ------------------------------------------------------------------------------------------------------------- choices


def test_what_is_chosen_is_not_measured_on_what_chose_it():
    values = pd.DataFrame({"a": [1.0, 5.0, 6.0], "b": [90.0, 2.0, 3.0], "c": [0.0, 0.0, 9.0]}, [3, 1, 7])
    found, most = leave_one_out_best(values)  # without seed 3 `a` is first, with it `b`
    close(found, pd.Series([1.0, 2.0, 3.0], [3, 1, 7]))
    assert most == "b"
    found, most = leave_one_out_best(values.loc[[7]])
    assert (found.to_dict(), most) == ({7: 9.0}, "c")


def test_choosing_is_right_on_average():
    """The best of columns that differ by chance only looks better than their mean unless others choose it."""
    noise = np.random.default_rng(0).normal(size=(60, 8, 5))
    found = [leave_one_out_best(pd.DataFrame(one))[0].mean() for one in noise]
    assert abs(np.mean(found)) < 3 * stats.sem(found) < np.mean(noise.mean(1).max(1))


# --------------------------------------------------------------------------------------------------------- inversions


@given(st.permutations(range(5)), st.permutations(range(5)))
def test_inverted_pairs_are_those_that_kendall_counts(one, other):
    wanted = 100 * (1 - stats.kendalltau(one, other).statistic) / 2
    assert inverted_pairs(pd.DataFrame([one]), pd.DataFrame([other]))[0] == pytest.approx(wanted)


def test_a_tie_is_no_inversion():
    one = pd.DataFrame([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [3, 1])
    other = pd.DataFrame([[2.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [3, 1])
    close(inverted_pairs(one, other), pd.Series([200 / 3, 100.0], [3, 1]))


FIRST = pd.DataFrame({"a": [9.0, 9.1, 9.3, 9.2], "b": [7.0, 7.3, 7.1, 7.4], "c": [1.0, 1.5, 1.2, 1.1]}, SEEDS)
TURNED = pd.DataFrame({"a": [5.0, 5.2, 5.1, 5.4], "b": [6.0, 6.1, 6.4, 6.3], "c": [1.0, 1.2, 1.1, 0.8]}, SEEDS)


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_the_surest_inversion_is_the_pair_that_is_turned(order):
    found = surest_inversion(FIRST[list(order)], TURNED[list(order)])
    close(found["first"], FIRST["a"] - FIRST["b"])
    close(found["second"], TURNED["a"] - TURNED["b"])
    assert (found["first"] > 0).all()
    assert (found["second"] < 0).all()


def test_a_seed_does_not_choose_its_own_pair():
    other = TURNED.copy()
    other.loc[3] = [5.0, 1.0, 40.0]  # in this seed alone c is far ahead, and a is ahead of b
    found = surest_inversion(FIRST, other).loc[3]
    assert found.tolist() == pytest.approx([2.0, 4.0])  # of a and b still, not turned here


def test_where_nothing_is_turned_both_agree():
    assert (surest_inversion(FIRST, FIRST + 1) > 0).all(axis=None)
    assert (surest_inversion(FIRST.loc[[3, 1]], FIRST.loc[[3, 1]] + 1) > 0).all(axis=None)


@pytest.mark.parametrize("seeds", [[3], [3, 1], SEEDS])
def test_an_inversion_of_any_number_of_seeds(seeds):
    found = surest_inversion(FIRST.loc[seeds], TURNED.loc[seeds])
    close(found["first"], (FIRST["a"] - FIRST["b"]).loc[seeds])
    close(found["second"], (TURNED["a"] - TURNED["b"]).loc[seeds])


# ------------------------------------------------------------------------------------------------ partial correlations


def test_a_partial_correlation_is_that_of_what_regression_leaves():
    names = list("abcdef")
    one, other, given_sizes = (
        table(names),
        table(names, high=40.0) ** 2,
        dict(zip(names, (1, 4, 2, 50, 9, 7), strict=True)),
    )
    z = np.log(list(given_sizes.values()))
    wanted = {}
    for seed in SEEDS:
        x, y = one.loc[seed], other.loc[seed]
        xy, xz, yz = (np.corrcoef(*pair)[0, 1] for pair in ((x, y), (x, z), (y, z)))
        wanted[seed] = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
        rest = [sm.OLS(v.to_numpy(), sm.add_constant(z)).fit().resid for v in (x, y)]
        assert wanted[seed] == pytest.approx(np.corrcoef(rest)[0, 1])
    close(partial_correlation(one, other, given_sizes), pd.Series(wanted))


@given(numbers, numbers)
def test_what_the_budget_explains_makes_no_partial_correlation(slope, level):
    names, sizes = list("abcde"), [1.0, 2.0, 5.0, 9.0, 30.0]
    one, other, moved = table(names), table(names[::-1])[names], slope * np.log(sizes) + level
    given_sizes = dict(zip(names, sizes, strict=True))
    close(partial_correlation(one + moved, other, given_sizes), partial_correlation(one, other, given_sizes))


# ---------------------------------------------------------------------------------------------------------------- peaks


@given(st.floats(-1.4, 0.4), st.floats(0.1, 50), numbers)
def test_the_peak_of_a_parabola_is_found_between_the_values(top, steep, high):
    rates = [0.001, 0.01, 0.1, 1.0, 10.0]
    curve = pd.Series([high - steep * (np.log10(rate) - top) ** 2 for rate in rates], rates)
    assert peak(curve) == pytest.approx(top, abs=1e-6)


def test_a_peak_at_an_end_is_the_end_and_of_equals_the_first_counts():
    assert peak(pd.Series([3.0, 2.0, 1.0], [0.1, 1, 10])) == -1
    assert peak(pd.Series([1.0, 2.0, 3.0], [0.1, 1, 10])) == 1
    assert peak(pd.Series([1.0, 1.0, 1.0], [0.1, 1, 10])) == -1
    assert peak(pd.Series([0.0, 1.0, 1.0, 0.0], [0.01, 0.1, 1, 10])) == pytest.approx(-0.5)
