"""Statistics over seeds: paired effects with intervals, equivalence, Holm's correction, and verdicts from them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import check, choose

CONFIDENCE = 0.95
EXACT_SIGN_FLIPS = 16  # up to so many seeds all sign patterns are counted
VERDICTS = ("supported", "contradicted", "inconclusive", "not tested")


@dataclass(frozen=True)
class Effect:
    """A mean over independent seeds, with what is needed to judge it.

    Attributes
    ----------
    mean, low, high : float
        The mean of the paired differences and its 95% interval by Student's t.
    p : float
        Two-sided p of the paired t test against no effect; in a judgement, that of the test which decides.
    p_sign : float
        Two-sided p of the sign-flip test, which assumes symmetry about zero; with n seeds it cannot go below 2 / 2^n.
        NaN where the test that decides is not against zero.
    n : int
        Independent seeds.
    deviation : float
        Standard deviation over seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    p_sign: float
    n: int
    deviation: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def effect(differences: Sequence[float]) -> Effect:
    """Estimate the mean of paired differences, one number a seed.

    Parameters
    ----------
    differences : sequence of float, length n

    Returns
    -------
    Effect
        With fewer than two seeds the interval is infinite and p is 1.

    Raises
    ------
    UserError
        If there is no number, or one is not finite.
    """
    values = np.asarray(differences, dtype=float)
    check(len(values) and np.isfinite(values).all(), "differences", differences, "must be finite numbers, one a seed")
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Effect(mean, -math.inf, math.inf, 1.0, 1.0, n, math.nan)
    deviation = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * (deviation / math.sqrt(n))
    p = min(1.0, 2 * _tail(abs(mean), deviation, n))
    return Effect(mean, mean - half, mean + half, p, sign_flip(values), n, deviation)


def _tail(distance: float, deviation: float, n: int) -> float:
    """Return the one-sided p of a mean over n seeds that lies so far on one side of a bound: 1 if n is 1."""
    if n < 2 or deviation == 0:
        return float(n < 2 or distance <= 0)
    return float(stats.t.sf(distance / (deviation / math.sqrt(n)), n - 1))


def by_group(records: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Return the mean of a column in every group of rows, one row a seed, with its 95% interval.

    Parameters
    ----------
    records : DataFrame
    by : sequence of str
        Columns that tell groups apart.
    value : str
        The column that is averaged.

    Returns
    -------
    DataFrame
        One row a group: the columns `by`, `value`, ``low``, ``high`` and ``seeds``.
    """
    found = {key: effect(group) for key, group in records.groupby(list(by))[value]}
    rows = [(*key, e.mean, e.low, e.high, e.n) for key, e in found.items()]
    return pd.DataFrame(rows, columns=[*by, value, "low", "high", "seeds"])


def sign_flip(values: np.ndarray, draws: int = 20000) -> float:
    """Return the two-sided p of the sign-flip test of a zero mean: exact up to 16 values, else from random patterns."""
    n = len(values)
    if n <= EXACT_SIGN_FLIPS:
        signs = np.array(list(itertools.product((1, -1), repeat=n)))
    else:
        signs = np.vstack([np.ones(n), np.random.default_rng(0).choice((1, -1), size=(draws, n))])
    sums = np.abs(signs @ values)
    return float((sums >= abs(values.sum()) - 1e-12 * np.abs(values).sum()).mean())


def equivalence(found: Effect, margin: float) -> float:
    """Return the p of two one-sided t tests: small if the effect lies within +-margin.

    Raises
    ------
    UserError
        If the margin is not above 0.
    """
    check(margin > 0, "margin", margin, "must be above 0")
    return max(_tail(margin + side * found.mean, found.deviation, found.n) for side in (1, -1))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down method, in the order given."""
    order = np.argsort(ps)
    multiplied = np.minimum(1, np.asarray(ps)[order] * np.arange(len(ps), 0, -1))
    return np.maximum.accumulate(multiplied)[np.argsort(order)].tolist()


def seeds_needed(deviation: float, half_width: float, most: int = 10_000) -> int:
    """Return how many seeds make the interval's half-width at most `half_width`, for this deviation over seeds."""
    n = np.arange(2, most)
    half_widths = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * deviation / np.sqrt(n)
    return 2 + int((half_widths > half_width).sum())  # they fall with n


@dataclass(frozen=True)
class Judgement:
    """A verdict on one statistic, and why.

    Attributes
    ----------
    verdict : {"supported", "contradicted", "inconclusive", "not tested"}
    why : str
        Half a sentence.
    effect : Effect
    against : float
        Two-sided p of the claim's opposite where the verdict is contradicted; else 1.
    test : str
        What the effect's p is of.
    """

    verdict: str
    why: str
    effect: Effect
    against: float = 1.0
    test: str = "t"


def _noisy(found: Effect, half_width: float, though: str = "") -> str:
    need = f"; about {seeds_needed(found.deviation, half_width)} seeds would do" if found.n > 1 else ""
    return f"too few or too noisy{though}: n = {found.n}{need}"


def judge_direction(found: Effect, relevant: float, direction: int = 1) -> Judgement:
    """Judge a directional claim from one effect.

    Parameters
    ----------
    found : Effect
    relevant : float
        The paper's effect (its size): an interval whose half-width exceeds it says nothing.
    direction : {1, -1}
        Sign of the effect that the claim foresees.

    Returns
    -------
    Judgement
        Supported if the interval lies on the claimed side of zero, contradicted if on the other.
    """
    check(relevant > 0, "relevant", relevant, "must be above 0")
    choose("direction", direction, (1, -1))
    words = ("lies on the claimed side of zero", "lies on the other side of zero", "contains zero")
    return _by_side(found, relevant, sorted((direction * found.low, direction * found.high)), words)


def _by_side(found: Effect, half_width: float, interval: Sequence[float], words: Sequence[str]) -> Judgement:
    """Judge by the side of zero on which an interval lies, if the effect is known to within a half-width.

    `words` say what the interval does on the claimed side, on the other, and on both.
    """
    side = 0 if interval[0] > 0 else 1 if interval[1] < 0 else 2
    if not found.half_width <= half_width:
        though = f", though the interval {words[side]}" if side < 2 else ""
        return Judgement("inconclusive", _noisy(found, half_width, though), found)
    against = 2 * _tail(-sum(interval) / 2, found.deviation, found.n) if side == 1 else 1.0
    return Judgement(VERDICTS[side], f"the interval {words[side]}", found, against)


def judge_equal(found: Effect, margin: float) -> Judgement:
    """Judge a claim of no difference: an equivalence test at 5% with a stated margin.

    Returns
    -------
    Judgement
        Supported if the effect is shown to lie within +-margin, contradicted if its interval lies outside.
    """
    p = equivalence(found, margin)
    shown, test = replace(found, p=p, p_sign=math.nan), f"equal within {margin:g}"
    if p < 1 - CONFIDENCE:
        return Judgement("supported", f"the effect lies within {margin:g} of zero", shown, test=test)
    if not found.half_width <= margin:
        return Judgement("inconclusive", _noisy(found, margin), shown, test=test)
    if found.low > margin or found.high < -margin:
        against = 2 * _tail(abs(found.mean) - margin, found.deviation, found.n)
        return Judgement("contradicted", f"the interval lies more than {margin:g} from zero", shown, against, test)
    return Judgement("inconclusive", f"the interval reaches beyond {margin:g}", shown, test=test)


def judge_not_worse(found: Effect, margin: float) -> Judgement:
    """Judge a claim of "as good or better": supported if the interval lies above -margin, contradicted if below.

    An interval whose half-width exceeds the margin says nothing.
    """
    check(margin > 0, "margin", margin, "must be above 0")
    words = (f"lies above {-margin:g}", f"lies below {-margin:g}", f"contains {-margin:g}")
    p = min(1.0, 2 * _tail(abs(found.mean + margin), found.deviation, found.n))
    shown = replace(found, p=p, p_sign=math.nan)
    judged = _by_side(shown, margin, (found.low + margin, found.high + margin), words)
    return replace(judged, test=f"t, against {-margin:g}")


def judge_both(first: Judgement, second: Judgement) -> Judgement:
    """Judge a claim by two readings of it: the first decides only if the second agrees, and is no surer than that."""
    if first.verdict == second.verdict:
        return first if first.against >= second.against else replace(first, against=second.against)
    reason = next((f" ({j.why})" for j in (first, second) if j.verdict == "inconclusive"), "")
    why = f"one reading is {first.verdict}, the other {second.verdict}{reason}"
    return replace(first, verdict="inconclusive", why=why, against=1.0)


def judge_all(parts: Mapping[str, Judgement]) -> Judgement:
    """Judge a claim that says several things at once.

    Parameters
    ----------
    parts : mapping of str to Judgement
        By a few words that name the part.

    Returns
    -------
    Judgement
        Supported if every part is. Contradicted if some part is, at 5% after Holm's correction over the parts: then the
        effect is that of the part that is contradicted most surely. Otherwise, and where all parts agree, the effect is
        that of the first.
    """
    first, *others = parts.values()
    if all(j.verdict == first.verdict for j in others):
        return first
    said = {v: [name for name, j in parts.items() if j.verdict == v] for v in VERDICTS}
    why = "; ".join(f"{v}: {', '.join(names)}" for v, names in said.items() if names)
    if len(said["inconclusive"]) == 1:
        why += f" ({parts[said['inconclusive'][0]].why})"
    against = dict(zip(parts, holm([j.against for j in parts.values()]), strict=True))
    worst = min(against, key=against.get)
    if against[worst] < 1 - CONFIDENCE:
        return replace(parts[worst], why=f"{why}; the effect is that of: {worst}", against=against[worst])
    return replace(first, verdict="inconclusive", why=why, against=1.0)
