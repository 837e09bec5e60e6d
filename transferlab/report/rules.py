"""Rules: how a claim is judged, fixed before its data, and the verdict that follows from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from ..arms.factors import family as family_of
from ..errors import UserError, check, choose
from .stats import CONFIDENCE, MANY, Effect, effect, equivalence, holm, seeds_needed, trend
from .theme import names

SIDES = ("above", "below", "equal")
HOLDS, FAILS, IN_PART, NOTHING = "holds here", "does not hold here", "in part", "no effect here"
UNDECIDED, UNTESTABLE, UNTESTED = "undecided", "not testable here", "not tested"
ENOUGH_FAMILIES = 5  # of targets, for an interval over them
MOST = {"%": 5.0}  # margins are at most 1 point; 5 where the unit is a percentage of something

Estimator = Callable[[Any], pd.Series]  # from a `Study` to one number a seed


@dataclass(frozen=True)
class Part:
    """One thing that a claim says: a contrast, and on which side of which bar it has to lie.

    Attributes
    ----------
    of : callable
        From a `Study` to one number a seed. It is asked again for each target alone.
    side : {"above", "below", "equal"}
        Of the bar on which the claim sees it; ``equal``: within the margin of the bar.
    bar : float
    paper : float, optional
        The paper's effect, from which the margin follows: half of it, at most 1 point (5 of a percentage); without one,
        that most.
    margin : float, optional
        In its place: what counts as no difference.
    unit : str
        Of the effect, where it is not the rule's.
    order : bool
        Whether the effect is a rank correlation over families of targets: `of` returns a table with a row each, their
        means over seeds in the columns ``x`` and ``y``.
    by_family : bool
        Whether `of` returns one number a family of targets: what is claimed of new tasks.
    """

    of: Estimator
    side: str = "above"
    bar: float = 0.0
    paper: float | None = None
    margin: float | None = None
    unit: str = ""
    order: bool = False
    by_family: bool = False

    def __post_init__(self) -> None:
        choose("side", self.side, SIDES)
        check(self.margin is None or self.margin > 0, "margin", self.margin, "must be above 0")

    def values(self, study: Any) -> Any:
        """Return one number a seed that all its arms have; of an order the table over families."""
        values = self.of(study)
        return values.dropna() if study.uneven and not (self.order or self.by_family) else values

    def estimate(self, study: Any) -> Effect:
        """Return what a study's records say: on the seeds that all its arms have, or over families."""
        return self.effect(self.values(study))

    def effect(self, values: Any) -> Effect:
        """Return what `values` say."""
        return trend(values) if self.order else effect(values)

    def within(self, unit: str) -> float:
        """Return the margin for a unit."""
        most = MOST.get(unit[:1], 1.0)
        return self.margin or (min(abs(self.paper) / 2, most) if self.paper else most)


def above(of: Estimator, bar: float = 0.0, **more: float) -> Part:
    """Return the part that an effect is above a bar."""
    return Part(of, "above", bar, **more)


def below(of: Estimator, bar: float = 0.0, **more: float) -> Part:
    """Return the part that an effect is below a bar."""
    return Part(of, "below", bar, **more)


def equal(of: Estimator, margin: float) -> Part:
    """Return the part that an effect is none, to within a margin."""
    return Part(of, "equal", 0.0, margin=margin)


def order(of: Estimator, side: str) -> Part:
    """Return the part that a rank correlation over families of targets is above, or below, none."""
    return Part(of, side, unit="rank correlation", order=True)


@dataclass(frozen=True)
class Rule:
    """How a claim is judged.

    Attributes
    ----------
    claim : str
        Its id.
    parts : mapping of str to Part
        By a short name. The claim holds if every one does.
    unit : str
        Of the effects: ``points``, ``% kept``, ``points a doubling`` …
    fixed : str
        The day on which it was fixed.
    check : mapping of str to Part
        What shows that the setting can answer. It looks at baselines only; where one does not hold, the claim is not
        testable here.
    same_as : str
        Another claim whose measurement this is: it is counted once.
    aside : bool
        A reading beside the chapter that decides: it stands on its own page only.
    seen : tuple of int
        Seeds that were run under an earlier form of the rule and whose records were not kept.
    """

    claim: str
    parts: Mapping[str, Part]
    unit: str = "points"
    fixed: str = ""
    check: Mapping[str, Part] = field(default_factory=dict)
    same_as: str = ""
    aside: bool = False
    seen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What came out of a part.

    Attributes
    ----------
    name, side, unit : str
    bar, margin : float
    effect : Effect
    state : {"holds", "fails", "null", "open"}
    p : float or None
        Two-sided, of the test that decided: against the bar, or that the effect is within the margin. ``None`` for a
        claim of equality that was not shown.
    p_holm : float or None
        Corrected over the parts, where the verdict needs that.
    targets : dict of str to Effect
        Each target alone, with an interval at 1 - .05/k of k targets.
    families : Effect or None
        Over families of targets, where there are five or more.
    left_out : list of str
        Targets on which the contrast is not defined, such as those that gain nothing by the full source.
    values : sequence of float
        One a seed, of which `effect` is the mean; none of an order.
    """

    name: str
    side: str
    bar: float
    margin: float
    unit: str
    effect: Effect
    state: str
    p: float | None
    targets: dict[str, Effect]
    families: Effect | None = None
    left_out: Sequence[str] = ()
    p_holm: float | None = None
    order: bool = False
    values: Sequence[float] = ()
    by_family: bool = False

    @property
    def only_here(self) -> bool:
        """Whether what holds or fails need not do so on other targets: the interval over families contains the bar."""
        decided = self.families is not None and self.side != "equal" and self.state in ("holds", "fails")
        return decided and self.families.low <= self.bar <= self.families.high

    @property
    def counts(self) -> str:
        """The state, open where it does not stand after Holm's correction over the parts."""
        return "open" if self.p_holm is not None and self.p_holm >= 1 - CONFIDENCE else self.state

    @property
    def against(self) -> list[str]:
        """Targets whose corrected interval lies on the other side of the bar from the pooled one."""
        if self.side == "equal" or self.state not in ("holds", "fails"):
            return []
        other = {"holds": "fails", "fails": "holds"}[self.state]
        return [t for t, e in self.targets.items() if len(self.targets) > 1 and beyond(e, self.side, self.bar) == other]

    @property
    def needed(self) -> int:
        """Seeds at which the half-width would be half the margin."""
        known = self.effect.n > 1 and not (self.order or self.by_family)  # no number of seeds brings more families
        return seeds_needed(self.effect.deviation, self.margin / 2) if known else MANY + 1


def beyond(found: Effect, side: str, bar: float) -> str:
    """Return ``holds`` or ``fails`` for an interval on one side of a bar, else ``open``."""
    low, high = found.low - bar, found.high - bar
    low, high = (low, high) if side == "above" else (-high, -low)
    return "holds" if low > 0 else "fails" if high < 0 else "open"


def state_of(found: Effect, part: Part, margin: float) -> tuple[str, float | None]:
    """Return the state of a part, and the p of the test that decided it."""
    inside = -margin < found.low - part.bar and found.high - part.bar < margin
    if part.order:
        right = (found.mean > 0) == (part.side == "above")
        return "open" if found.p >= 1 - CONFIDENCE else "holds" if right else "fails", found.p
    centred = replace(found, mean=found.mean - part.bar)
    if part.side == "equal":
        if inside:
            return "holds", equivalence(centred, margin)
        apart = found.low > margin or found.high < -margin
        return ("fails", found.against(math.copysign(margin, found.mean))) if apart else ("open", None)
    state = beyond(found, part.side, part.bar)
    if state == "open" and inside and part.bar == 0:
        return "null", equivalence(centred, margin)
    return state, found.against(part.bar)


def find(name: str, part: Part, study: Any, unit: str) -> Finding:
    """Return what came out of a part, in all and on each target."""
    unit = part.unit or unit
    margin, values = part.within(unit), part.values(study)
    found = part.effect(values)
    state, p = state_of(found, part, margin)
    if part.order or part.by_family:
        kind = {"order": part.order, "by_family": part.by_family}
        return Finding(name, part.side, part.bar, margin, unit, found, state, p, {}, **kind)
    by_target, left_out = {}, []
    for target in study.targets if len(study.targets) > 1 else ():
        try:
            alone = part.of(study.only(target))
            by_target[target] = alone.dropna() if study.uneven else alone
        except UserError:  # it lacks an arm, or has nothing to keep
            left_out.append(target)
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(by_target))
    targets = {t: effect(v, confidence) for t, v in by_target.items()}
    family = pd.Series({t: e.mean for t, e in targets.items()}, dtype=float)
    family = family.groupby([family_of(t) for t in family.index]).mean()
    families = effect(family) if len(family) >= ENOUGH_FAMILIES else None
    about = {"targets": targets, "families": families, "left_out": left_out, "values": [float(v) for v in values]}
    return Finding(name, part.side, part.bar, margin, unit, found, state, p, **about)


@dataclass(frozen=True)
class Verdict:
    """What records say about a claim, computed from its rule.

    Attributes
    ----------
    claim, scale, chapter : str
    word : str
        One of those in ``theme.toml``.
    parts, checks : list of Finding
    unit : str
    seeds : list of int
    rule : str
        Hash of the rule.
    fixed : str
        The day on which it was fixed.
    seen : list of int
        Seeds that were run before that.
    same_as : str
    """

    claim: str
    scale: str
    chapter: str
    word: str
    parts: Sequence[Finding]
    checks: Sequence[Finding]
    unit: str
    seeds: Sequence[int]
    rule: str = ""
    fixed: str = ""
    seen: Sequence[int] = ()
    same_as: str = ""

    @property
    def fixed_before(self) -> bool:
        """Whether the rule was fixed before any of these data."""
        return not set(self.seen) & set(self.seeds)

    @property
    def small(self) -> bool:
        """Whether it holds by differences that are all within their margins."""
        told = [f for f in self.parts if f.side != "equal" and not f.order]
        inside = (abs(end - f.bar) < f.margin for f in told for end in (f.effect.low, f.effect.high))
        differences = bool(told) and not any(f.order for f in self.parts)
        return self.word == HOLDS and differences and all(f.bar == 0 for f in told) and all(inside)

    @property
    def p(self) -> float | None:
        """The p of the claim: of a conjunction the largest, of a claim that fails the smallest that counts."""
        states = {HOLDS: "holds", FAILS: "fails", NOTHING: "null"}
        ps = [f.p if f.p_holm is None else f.p_holm for f in self.parts if f.state == states.get(self.word)]
        ps = [p for p in ps if p is not None]
        return None if not ps else min(ps) if self.word == FAILS else max(ps)

    @property
    def needed(self) -> int | None:
        """Seeds that every open part would need."""
        ns = [f.needed for f in self.parts if f.counts == "open"]
        return max(ns) if self.word == UNDECIDED and ns else None

    @property
    def need(self) -> str:
        """What would decide an open claim, in words."""
        n = self.needed
        if n is None:
            return ""
        if any(f.order or f.by_family for f in self.parts if f.counts == "open"):
            return "needs more families of targets"
        if n <= min(f.effect.n for f in self.parts):
            return "too near its bar to tell"  # known well enough, and on both sides of it
        return f"needs about {n} repetitions" if n <= MANY else f"needs more than {MANY} repetitions"

    @property
    def why(self) -> str:
        """The reason in half a sentence."""
        counted = [f.counts for f in self.parts]
        before = [f.name for f in self.parts if f.counts != f.state]
        note = f"; before correcting over the parts also: {', '.join(before)}" if before else ""
        several = len(self.parts) > 1
        if self.word == UNTESTABLE:
            return "the check of the setting failed: " + ", ".join(f.name for f in self.checks if f.state != "holds")
        if self.word == UNDECIDED:
            return f"{counted.count('holds')} of {len(counted)} parts; {self.need}{note}" if several else self.need
        if self.word == HOLDS:
            return "small: inside what counts as no difference" if self.small else "every part holds" if several else ""
        if self.word == IN_PART and len(set(counted)) == 1:
            turned = dict.fromkeys(names(t) for f in self.parts for t in f.against)
            return f"{'the opposite on' if counted[0] == 'holds' else 'it holds on'}: {', '.join(turned)}"
        words = {"holds": "holds", "fails": "does not hold", "null": "no effect", "open": "open"}
        told = {w: [f.name for f in self.parts if f.counts == s] for s, w in words.items()} if several else {}
        return "; ".join(f"{w}: {', '.join(parts)}" for w, parts in told.items() if parts) + note


def decide(parts: Sequence[Finding], checks: Sequence[Finding] = ()) -> tuple[str, list[Finding]]:
    """Return the verdict's word by the first line of the decision table that applies, and the parts, corrected.

    Parameters
    ----------
    parts, checks : sequence of Finding

    Returns
    -------
    str
        1. a check failed: not testable here; 2. every part holds: holds here; 3. none holds, one fails: does not hold
        here; 4. some hold, some fail or are null: in part; 5. all are null: no effect here; 6. else undecided. In 3 to
        5 a part counts by its p after Holm over the parts. Where a target contradicts what is pooled, it is in part.
    list of Finding
    """
    check(len(parts) > 0, "parts", 0, "must be one or more")
    word = UNDECIDED
    if all(f.state == "holds" for f in parts):
        word = HOLDS
    else:
        told = [f.p if f.p is not None and f.state != "open" else 1.0 for f in parts]
        parts = [replace(f, p_holm=p if f.state != "open" else None) for f, p in zip(parts, holm(told), strict=True)]
        states = {f.counts for f in parts}
        if "holds" not in states and "fails" in states:
            word = FAILS
        elif "holds" in states and states & {"fails", "null"}:
            word = IN_PART
        elif states == {"null"}:
            word = NOTHING
    if any(f.state != "holds" for f in checks):
        word = UNTESTABLE
    elif word in (HOLDS, FAILS) and any(f.against for f in parts):
        word = IN_PART
    return word, list(parts)


def judge(rule: Rule, study: Any, /, **about: Any) -> Verdict:
    """Return the verdict on a claim by its rule and a study's records; `about` is what else `Verdict` takes."""
    parts = [find(name, part, study, rule.unit) for name, part in rule.parts.items()]
    checks = [find(name, part, study, rule.unit) for name, part in rule.check.items()]
    word, parts = decide(parts, checks)
    about = {"unit": rule.unit, "fixed": rule.fixed, "same_as": rule.same_as, "seeds": list(study.seeds)} | about
    return Verdict(rule.claim, study.scale, study.name, word, parts, checks, **about)
