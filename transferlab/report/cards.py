"""Verdicts, the box at the top of a chapter, and the scorecard as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from .claims import claim, counted, papers
from .figure import Table, table_html
from .pieces import PIECES, piece
from .rules import UNDECIDED, UNTESTED, Finding, Verdict
from .stats import Effect
from .theme import LOOK, SIGNS, VERDICT, names

if TYPE_CHECKING:
    from .controls import Explorer
    from .figure import Figure

STATES = {"holds": "✓", "fails": "✗", "null": "○", "open": "?"}
SAID = ("holds here", "does not hold here", "in part", "no effect here", UNDECIDED)  # by the decision table
STATE_WORDS = {"holds": "holds", "fails": "does not hold", "null": "no effect", "open": "open"}
TONE_OF = {"holds": "holds here", "fails": "does not hold here", "null": "no effect here", "open": UNDECIDED}
SIDE_WORDS = {"above": "above", "below": "below", "equal": "within ±"}
WIDTH, HEIGHT, EDGE = 120, 20, 6  # of an inline drawing, in px


def chip(v: Verdict) -> Markup:
    """Return the chip of a verdict: sign and word, never the colour alone."""
    return piece("chip", v)


def number(value: float, digits: int = 1, sign: bool = True) -> str:
    """Return a number with a true minus sign, and no sign if it rounds to nothing."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def more(points: float, unit: str = "points") -> str:
    """Return a difference in words: ``12 points more``, ``0.4 points fewer``."""
    if not round(points, 1):
        return f"no {unit} more or fewer"
    return f"{abs(points):.{abs(points) < 9.95:d}f} {unit} {'fewer' if points < 0 else 'more'}"


def p_value(p: float | None) -> str:
    """Return a p value as it is printed: two digits."""
    if p is None or math.isnan(p):
        return ""
    text = "< .001" if p < 0.001 else "> .99" if p > 0.99 else f"{p:.2g}".lstrip("0")
    return text.replace(" ", "\u00a0")


def digits(unit: str) -> int:
    """Return how many decimals are printed of an effect: one, but two of a correlation or of Kendall's W."""
    return 2 if "correlation" in unit or unit == "W" else 1


def interval(effect: Effect, unit: str = "points") -> str:
    """Return an effect with its interval and n, in words."""
    mean, low, high = (amount(x, unit) for x in (effect.mean, effect.low, effect.high))
    unit = unit if unit.startswith("%") else f" {unit}"
    if not math.isfinite(effect.low):
        return f"{mean}{unit}; one repetition has no interval"
    return f"{mean}{unit}, 95% interval {low} to {high}, n = {effect.n} repetitions"


def bracketed(f: Finding, bar: bool = True) -> str:
    """Return the number that decided, with its interval in brackets, against its bar."""
    unit = "%" if f.unit.startswith("%") else f" {f.unit}"
    only = f"{amount(f.effect.mean, f.unit)}{unit}, one repetition"
    text = f"{_range(f.effect, f.unit)}{unit}" if f.effect.n > 1 else only
    at = f"{f.margin:g}" if f.side == "equal" else f"{f.bar:g}".replace("-", "−")
    return f"{text}; bar {SIDE_WORDS[f.side]}{' ' * (f.side != 'equal')}{at}" if bar else text


def span(findings: Iterable[Finding]) -> tuple[float, float]:
    """Return the ends of the axis on which some findings can be drawn together, their bars included."""
    ends = []
    for f in findings:
        ends += [f.bar, *(x for x in (f.effect.low, f.effect.mean, f.effect.high) if math.isfinite(x))]
        ends += [f.margin, -f.margin] if f.side == "equal" else []
    low, high = min(ends), max(ends)
    return (low, high) if high > low else (low - 1, high + 1)


def drawing(f: Finding, axis: tuple[float, float] | None = None) -> Markup:
    """Return an interval as an inline drawing: the claimed side shaded, the bar a line."""
    low, high = axis or span([f])
    at = lambda x: EDGE + (WIDTH - 2 * EDGE) * (min(max(x, low), high) - low) / (high - low)  # noqa: E731
    bars = [at(b) for b in ((-f.margin, f.margin) if f.side == "equal" else (f.bar,))]
    first, last = {"above": (bars[0], WIDTH), "below": (0, bars[0]), "equal": (bars[0], bars[-1])}[f.side]
    ends = [at(x) for x in (f.effect.low, f.effect.mean, f.effect.high)]
    px = "{:.1f}".format
    return piece(
        "drawing", VERDICT[TONE_OF[f.counts]], px(first), px(max(0, last - first)), map(px, bars), *map(px, ends)
    )


def effects_table(rows: Iterable[Mapping], columns: Mapping[str, str], caption: str, name: str, unit="points") -> Table:
    """Return a table with an effect in each row, its interval and its p values; folded if it has more than ten rows.

    Parameters
    ----------
    rows : iterable of mapping
        ``effect``: an `Effect`, or ``None`` for a row without one; beside it the columns that are shown.
    columns : mapping of str to str
        These columns and their headings. Numbers in them that are not whole are printed with one decimal.
    caption, name
        As in `Table`.
    unit : str
        Heading of the effects.
    """
    flat = [{**row, **(vars(row["effect"]) if row["effect"] else {})} for row in rows]
    frame = pd.DataFrame(flat, columns=[*columns, *Effect.__dataclass_fields__])
    decimals = {c: "{:.1f}".format for c in columns if pd.api.types.is_float_dtype(frame[c])}
    headings = {"mean": unit, "low": "from", "high": "to", "p": "p (t)", "p_sign": "p (sign)"}
    written = decimals | dict.fromkeys(headings, number) | dict.fromkeys(("p", "p_sign"), p_value)
    markup = "" if len(frame) > 10 else table_html(frame, {**columns, **headings}, written)
    return Table(frame, caption, name, {**columns, **headings}, markup, folded=len(frame) > 10)


@dataclass
class Short:
    """The box *In short* at the top of a chapter.

    Parameters
    ----------
    verdicts : sequence of Verdict
    picture : Figure or Explorer
        The chart that decides.
    said : sequence of str
        At most three sentences: what happens, by how much, for whom. The first is the answer that other pages quote.
    do : str
        What to do, one line.
    reach : str
        Network, pixels, targets, repetitions; what was not run.
    """

    verdicts: Sequence[Verdict]
    picture: Figure | Explorer | None
    said: Sequence[str]
    do: str
    reach: str

    @property
    def answer(self) -> str:
        """The sentence that other pages quote."""
        return self.said[0]

    def _repr_html_(self) -> str:
        return piece("short", self, self.picture.html() if self.picture else "")


@dataclass(frozen=True)
class VerdictCard:
    """A verdict in full: the claim, every part against its bar, and how sure that is.

    Attributes
    ----------
    verdict : Verdict
    beside : sequence of Verdict
        On the same claim, at other scales.
    rates : mapping of float to sequence of Effect
        The parts at each single learning rate, on the seeds that searched.
    lengths : mapping of str to sequence of Effect
        The parts at each length of training.
    trained : bool
        Whether anything is trained by steps, so that it has rates and lengths.
    """

    verdict: Verdict
    beside: Sequence[Verdict] = ()
    rates: Mapping[float, Sequence[Effect]] = field(default_factory=dict)
    lengths: Mapping[str, Sequence[Effect]] = field(default_factory=dict)
    trained: bool = True

    def _repr_html_(self) -> str:
        v, c = self.verdict, claim(self.verdict.claim)
        told = v.why.replace(f"; {v.need}", "") if v.word == UNDECIDED and len(v.parts) > 1 else v.why
        rates = {f"{rate:g}": found for rate, found in self.rates.items()}
        series = [
            ("At each learning rate, on validation images", rates, _fewest(rates)),
            ("At each length of training", self.lengths, _fewest(self.lengths)),
        ]
        return piece("card", v, c, told if told != v.need else "", series if self.trained else (), self.beside)


def _fewest(told: Mapping[str, Sequence[Effect]]) -> int:
    """Return the least number of repetitions among effects."""
    return min((effect.n for found in told.values() for effect in found), default=0)


def spans(numbers: Iterable[int]) -> str:
    """Return whole numbers in words, those that follow one another as a span: ``0 to 3, 6``."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def deciding(v: Verdict) -> str:
    """Return the number of the first part that made the verdict what it is."""
    made_it = {"holds here": "holds", "no effect here": "null", UNDECIDED: "open", "in part": "fails null open"}
    f = next((f for f in v.parts if f.counts in made_it.get(v.word, "fails")), v.parts[0])
    return f"{f.name}: {bracketed(f)}" if len(v.parts) > 1 else bracketed(f)


def amount(value: float, unit: str) -> str:
    """Return a number in its unit's digits, with a sign unless it is a percentage."""
    return number(value, digits(unit), not unit.startswith("%"))


def _range(found: Effect, unit: str) -> str:
    return f"{amount(found.mean, unit)} [{amount(found.low, unit)}, {amount(found.high, unit)}]"


def forest(findings: Sequence[Finding]) -> Markup:
    """Return findings as rows: name, drawing on one axis for each unit, number, p, state."""
    rows = []
    for f in findings:
        axis = span([g for g in findings if g.unit == f.unit])
        corrected = f" ({p_value(f.p_holm)} corrected)" if f.p_holm is not None and len(findings) > 1 else ""
        flipped = f.bar == 0 and f.state in ("holds", "fails") and not f.order
        flip = f", sign flip {p_value(f.effect.p_sign)}" if flipped else ""
        decided = f.p if f.side != "equal" or f.state == "holds" else None  # none for an equivalence that failed
        p = f"p {p_value(decided)}{corrected}{flip}" if decided is not None else ""
        data = {"low": f.effect.low, "high": f.effect.high, "bar": f.bar, "side": f.side}
        data["margin"] = None if f.order else f.margin  # p alone decides an order
        data |= {"p": decided, "holm": f.p_holm, "state": f.counts}
        if len(f.values) > 2:  # so that the reader may move the bar, or take fewer repetitions
            data |= {"values": " ".join(f"{v:.4g}" for v in f.values), "axis": "{:.4g} {:.4g}".format(*axis)}
            data |= {"against": "".join(f.against[:1]) or None, "unit": f.unit, "name": f.name}
        rows.append((f, data, drawing(f, axis), p))
    return piece("forest", rows)


def scorecard_table(card: pd.DataFrame, chapters: Mapping[str, tuple[str, str]], sizes: Iterable[str]) -> Table:
    """Return the scorecard, paper by paper.

    Parameters
    ----------
    card : DataFrame
        From `claims.scorecard`.
    chapters : mapping of str to pair of str
        Question and page, relative to the scorecard's, of each chapter with verdicts.
    sizes : iterable of str
        At which claims can be measured.
    """
    rows = card.astype(object).where(card.notna(), None).to_dict("records")
    for row in rows:
        row["sure"], row["away"] = _standing(row["found"].parts) if row["found"] else (0, 0)
    asked = dict.fromkeys(chapters[row["found"].chapter][0] for row in rows if row["found"])
    table = piece("scorecard", list(papers().values()), rows, chapters, list(sizes), asked)
    found = card["found"].where(card["found"].notna(), None)
    plain = card.drop(columns="found").assign(effect=[v and "; ".join(map(bracketed, v.parts)) for v in found])
    return Table(plain, LOOK["words"]["scorecard"], "scorecard", markup=table)


def _standing(parts: Sequence[Finding]) -> tuple[float, float]:
    """Return how many half-widths of its interval the least certain part is from its bar, and how far the first is."""
    away = [abs(f.margin - abs(f.effect.mean) if f.side == "equal" else f.effect.mean - f.bar) for f in parts]
    wide = [(f.effect.high - f.effect.low) / 2 for f in parts]
    sure = min((a / w for a, w in zip(away, wide, strict=True) if math.isfinite(w) and w > 0), default=0.0)
    return round(sure, 3), round(away[0], 3)


def tiles_html(card: pd.DataFrame, chapters: Mapping[str, tuple[str, str]], rest: str) -> Markup:
    """Return a tile for every claim, paper by paper, at its largest size.

    Parameters
    ----------
    card : DataFrame
        From `claims.scorecard`.
    chapters : mapping of str to pair of str
        Question and page of each chapter with verdicts.
    rest : str
        The scorecard's page, for claims that were not tested.
    """
    rows = card[card["first"]].to_dict("records")
    for row in rows:
        v = row["found"] if row["verdict"] != UNTESTED else None
        row["told"] = deciding(v) if v and v.parts else ""
        row["link"] = f"{chapters[v.chapter][1]}#verdict-{v.claim}" if v else f"{rest}#{row['claim']}"
    return piece("tiles", list(papers().values()), rows)


def tally_html(card: pd.DataFrame) -> Markup:
    """Return how many claims have which verdict, as a bar and a sentence; our own hypotheses apart.

    The largest scale of a claim counts, and one measurement counts once.
    """
    once = counted(card)
    own, theirs = (once[(once["kind"] == "hypothesis") == mine]["verdict"].value_counts() for mine in (True, False))
    shown, ours = ({v: int(found[v]) for v in VERDICT if v in found} for found in (theirs, own))
    return piece("tally", int(theirs.sum()), shown, ours, len(card.drop_duplicates("claim")) - len(once))


def papers_html(card: pd.DataFrame) -> Markup:
    """Return a card for each paper: what it is, and how many of its claims were tested."""
    tested = card[card["verdict"] != UNTESTED].drop_duplicates("claim").groupby("paper").size()
    total = card.drop_duplicates("claim").groupby("paper").size()
    return piece("papers", papers().values(), tested, total)


# What macros ask for by name.
PIECES.globals.update(VERDICT=VERDICT, SIGNS=SIGNS, UNDECIDED=UNDECIDED, UNTESTED=UNTESTED)
PIECES.globals.update(STATES=STATES, STATE_WORDS=STATE_WORDS, WIDTH=WIDTH, HEIGHT=HEIGHT, EDGE=EDGE)
PIECES.globals.update(SAID=SAID, TONE_OF=TONE_OF)
PIECES.globals.update(claim=claim, names=names, bracketed=bracketed, p_value=p_value)
PIECES.globals.update(drawing_of=drawing, forest_of=forest)
PIECES.filters.update(names=names, bracketed=bracketed, amount=amount, range=_range, spans=spans)
