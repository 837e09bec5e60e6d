"""Verdicts, the box at the top of a chapter, and the scorecard as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from .claims import claim, claims, counted, papers
from .figure import Table, scrolling, table_html
from .rules import UNDECIDED, UNTESTED, Finding, Verdict
from .stats import Effect
from .theme import LOOK, SIGNS, VERDICT, names

if TYPE_CHECKING:
    from .controls import Explorer
    from .figure import Figure

STATES = {"holds": "✓", "fails": "✗", "null": "○", "open": "?"}
STATE_WORDS = {"holds": "holds", "fails": "does not hold", "null": "no effect", "open": "open"}
TONE_OF = {"holds": "holds here", "fails": "does not hold here", "null": "no effect here", "open": UNDECIDED}
SIDE_WORDS = {"above": "above", "below": "below", "equal": "within ±"}
WIDTH, HEIGHT, EDGE = 120, 20, 6  # of an inline drawing, in px


def badge(word: str, more: str = "") -> str:
    """Return a verdict as a chip: sign and word, never the colour alone."""
    sign = f'<span aria-hidden="true">{SIGNS[word]}</span>'
    kind = f'class="tl-badge tl-{word.replace(" ", "-")}" style="--tone:{VERDICT[word]}"'
    return f"<span {kind}>{sign} {word}{escape(more)}</span>"


def chip(v: Verdict) -> str:
    """Return the chip of a verdict."""
    if v.word == UNDECIDED:
        return badge(v.word, f": {v.need}")
    return badge(v.word, " (small)" if v.small else "")


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
    mean, low, high = (
        number(x, digits(unit), not unit.startswith("%")) for x in (effect.mean, effect.low, effect.high)
    )
    unit = unit if unit.startswith("%") else f" {unit}"
    if not math.isfinite(effect.low):
        return f"{mean}{unit}; one repetition has no interval"
    return f"{mean}{unit}, 95% interval {low} to {high}, n = {effect.n} repetitions"


def bracketed(f: Finding, bar: bool = True) -> str:
    """Return the number that decided, with its interval in brackets, against its bar."""
    unit = "%" if f.unit.startswith("%") else f" {f.unit}"
    mean = number(f.effect.mean, digits(f.unit), f.unit[0] != "%")
    text = f"{_range(f.effect, f.unit)}{unit}" if f.effect.n > 1 else f"{mean}{unit}, one repetition"
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


def drawing(f: Finding, axis: tuple[float, float] | None = None) -> str:
    """Return an interval as an inline drawing: the claimed side shaded, the bar a line."""
    low, high = axis or span([f])
    at = lambda x: EDGE + (WIDTH - 2 * EDGE) * (min(max(x, low), high) - low) / (high - low)  # noqa: E731
    bars = (-f.margin, f.margin) if f.side == "equal" else (f.bar,)
    first, last = {"above": (at(f.bar), WIDTH), "below": (0, at(f.bar)), "equal": (at(bars[0]), at(bars[-1]))}[f.side]
    middle = HEIGHT / 2
    lines = "".join(f'<line class="tl-bar" x1="{at(b):.1f}" x2="{at(b):.1f}" y1="1" y2="{HEIGHT - 1}"/>' for b in bars)
    return (
        f'<svg class="tl-drawing" style="--tone:{VERDICT[TONE_OF[f.counts]]}"'
        f' width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">'
        f'<rect class="tl-claimed" x="{first:.1f}" width="{max(0.0, last - first):.1f}" height="{HEIGHT}"/>{lines}'
        f'<line class="tl-range" x1="{at(f.effect.low):.1f}" x2="{at(f.effect.high):.1f}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="tl-mean" cx="{at(f.effect.mean):.1f}" cy="{middle}" r="3.5"/></svg>'
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

    def text(self) -> str:
        """Return the box without its picture, as text."""
        told = "\n".join(f"{v.claim}: {v.word}. {v.why}".strip() for v in self.verdicts)
        return "\n".join([told, *self.said, f"What to do: {self.do}", f"Reach: {self.reach}"])

    def _repr_html_(self) -> str:
        answers = "".join(map(_answer, self.verdicts))
        picture = self.picture.html() if self.picture else ""
        said = "".join(f"<li>{escape(s)}</li>" for s in self.said)
        return (
            f'<section class="tl-short" aria-label="In short"><p class="tl-kicker">In short</p>'
            f'<div class="tl-answers">{answers}</div>{picture}<ul class="tl-said">{said}</ul>'
            f'<p class="tl-todo"><strong>What to do:</strong> {escape(self.do)}</p>'
            f'<p class="tl-reach"><strong>Reach:</strong> {escape(self.reach)}</p></section>'
        )


def _answer(v: Verdict) -> str:
    """Return a claim in words, its chip, and the number of each part beside it."""
    several = len(v.parts) > 1
    items = "".join(
        f"<li>{f'<b>{escape(f.name)}</b> {_state(f)} ' if several else ''}{drawing(f)} "
        f'<span class="tl-number">{escape(bracketed(f))}</span></li>'
        for f in v.parts
    )
    link = f'<a class="tl-id" href="#verdict-{v.claim}">{v.claim}</a>'
    return (
        f'<div class="tl-answer"><p class="tl-claim">{escape(claim(v.claim).sentence)} {link}</p>'
        f'<p class="tl-chip">{chip(v)}</p><ul class="tl-parts">{items}</ul></div>'
    )


def _state(f: Finding) -> str:
    words = STATE_WORDS[f.counts]
    return f'<span class="tl-state" title="{words}" aria-label="{words}" role="img">{STATES[f.counts]}</span>'


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
        why = f" <span>{escape(told)}</span>" if told and told != v.need else ""
        notes = [f"The paper: {c.reported}." if c.reported else "", *self._notes()]
        link = f'<a class="tl-id" href="../book/scorecard.html#{c.id}">{c.id}</a>'
        also = [f"{_where(o.scale)}: {chip(o)} {escape('; '.join(bracketed(f) for f in o.parts))}" for o in self.beside]
        return (
            f'<div class="tl-verdict" id="verdict-{v.claim}" style="--tone:{VERDICT[v.word]}">'
            f'<p class="tl-verdict-head">{chip(v)}{why} {link}</p>'
            f'<p class="tl-claim">{escape(c.sentence)}</p>{forest(v.parts)}'
            f"{''.join(f'<p class=tl-note>{escape(n)}</p>' for n in notes if n)}{self._checks()}"
            f"{''.join(f'<p class=tl-note>{a}</p>' for a in also)}</div>"
        )

    def _checks(self) -> str:
        asked = '<p class="tl-note">Can the setting answer? Checked on baselines alone:</p>'
        return f"{asked}{forest(self.verdict.checks)}" if self.verdict.checks else ""

    def _notes(self) -> list[str]:
        """Return what else there is to know, a sentence each; what was not run is named."""
        v = self.verdict
        notes = [
            f"Over {f.families.n} families of targets ({f.name}): {_range(f.families, f.unit)}"
            f"{': on these targets' if f.only_here else ''}."
            for f in v.parts
            if f.families
        ]
        notes += [
            f"Each target ({f.name}): "
            + "; ".join(f"{names(t)} {number(e.mean, digits(f.unit), f.unit[0] != '%')}" for t, e in f.targets.items())
            + (f"; left out: {', '.join(map(names, f.left_out))}." if f.left_out else ".")
            for f in v.parts
            if f.targets
        ]
        at = {"At each learning rate, on validation images": self.rates, "At each length of training": self.lengths}
        for words, told in at.items() if self.trained else ():
            words += ", part by part" if told and len(v.parts) > 1 else ""
            each = [
                f"{at:g}: {_listed(found, v)}" if isinstance(at, float) else f"{at}: {_listed(found, v)}"
                for at, found in told.items()
            ]
            lowest = min((e.n for found in told.values() for e in found), default=0)
            notes.append(f"{words} ({lowest} repetitions): {'; '.join(each)}." if each else f"{words}: not run yet.")
        if not v.checks:
            notes.append("A check that the setting can answer: none beyond the page's charts.")
        if v.seen and not v.fixed_before:
            seen = ", ".join(map(str, v.seen))
            notes.append(f"Rule {v.rule}: changed on {v.fixed}, after seeds {seen} were seen.")
        else:
            notes.append(f"Rule {v.rule}: fixed on {v.fixed}, before these data.")
        if v.same_as:
            notes.append(f"The same measurement as {v.same_as}: counted once.")
        return notes


def _range(found: Effect, unit: str) -> str:
    mean, low, high = (number(x, digits(unit), unit[0] != "%") for x in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"


def _listed(found: Sequence[Effect], v: Verdict) -> str:
    return ", ".join(number(e.mean, digits(v.unit), v.unit[0] != "%") for e in found)


def _where(scale: str) -> str:
    return f"At size <code>{scale}</code>"


def forest(findings: Sequence[Finding]) -> str:
    """Return findings as rows: name, drawing on one axis for each unit, number, p, state."""
    rows = ""
    for f in findings:
        axis = span([g for g in findings if g.unit == f.unit])
        corrected = f" ({p_value(f.p_holm)} corrected)" if f.p_holm is not None and len(findings) > 1 else ""
        flipped = f.bar == 0 and f.state in ("holds", "fails") and not f.order
        flip = f", sign flip {p_value(f.effect.p_sign)}" if flipped else ""
        decided = f.p if f.side != "equal" or f.state == "holds" else None  # none for an equivalence that failed
        p = f"p {p_value(decided)}{corrected}{flip}" if decided is not None else ""
        data = {
            "low": f.effect.low,
            "high": f.effect.high,
            "bar": f.bar,
            "margin": f.margin,
            "side": f.side,
            "p": decided,
        }
        data |= {"holm": f.p_holm, "state": f.counts}
        told = "".join(f' data-{k}="{v}"' for k, v in data.items() if v is not None)
        rows += (
            f'<tr{told}><th scope="row">{escape(f.name)}</th><td>{drawing(f, axis)}</td>'
            f"<td>{escape(bracketed(f))}</td><td>{escape(p)}</td><td>{_state(f)} {STATE_WORDS[f.counts]}</td></tr>"
        )
    return f'<table class="tl-table tl-forest"><tbody>{rows}</tbody></table>'


def scorecard_table(card: pd.DataFrame, links: dict[str, str]) -> Table:
    """Return the scorecard, paper by paper.

    Parameters
    ----------
    card : DataFrame
        From `claims.scorecard`.
    links : dict of str to str
        Page of each chapter, relative to the scorecard's.
    """
    parts = []
    for paper in papers().values():
        rows = "".join(_row(r, links) for r in card[card["paper"] == paper.key].to_dict("records"))
        title = f"{escape(paper.authors)}: <em>{escape(paper.title)}</em>"
        note = f'<span class="tl-why">{escape(paper.note)}</span>' if paper.note else ""
        parts.append(
            f'<tbody><tr class="tl-paper"><th colspan="4" scope="rowgroup">{title}{note}</th></tr>{rows}</tbody>'
        )
    headings = ("Claim", "What is claimed", "Verdict", "Effect [95% interval] against its bar")
    head = "".join(f'<th scope="col">{c}</th>' for c in headings)
    table = f'<table class="tl-table tl-scorecard"><thead><tr>{head}</tr></thead>{"".join(parts)}</table>'
    plain = card.drop(columns="found").assign(
        effect=[v and "; ".join(map(bracketed, v.parts)) for v in card["found"].where(card["found"].notna(), None)]
    )
    return Table(plain, LOOK["words"]["scorecard"], "scorecard", markup=scrolling(table, "scorecard"))


def _row(row: dict, links: dict[str, str]) -> str:
    c, v = claims()[row["claim"]], row["found"]
    mark = ' <span class="tl-hypothesis">our hypothesis</span>' if c.kind == "hypothesis" else ""
    reported = f'<span class="tl-reported">Reported: {escape(c.reported)}.</span>' if c.reported else ""
    anchor = f' id="{c.id}"' if row["first"] else ""
    first = f'<tr{anchor}><th scope="row">{c.id}</th><td>{escape(c.sentence)}{mark}{reported}'
    if row["verdict"] == UNTESTED:
        return f"{first}</td><td>{badge(UNTESTED)}</td><td></td></tr>"
    link = links.get(row["chapter"])
    where = f'<a href="{link}#verdict-{c.id}">size {row["scale"]}</a>' if link else f"size {row['scale']}"
    sure = f"p {p_value(row['p_holm'])}, " if p_value(row["p_holm"]) else ""
    same = f" The same measurement as {v.same_as}." if v.same_as else ""
    names_of = {f.name: f"{escape(f.name)} {_state(f)}<br>" if len(v.parts) > 1 else "" for f in v.parts}
    lines = "".join(
        f'<span class="tl-line">{names_of[f.name]}{drawing(f)} {escape(bracketed(f))}</span>' for f in v.parts
    )
    of = "families" if all(f.order for f in v.parts) else "repetitions"
    why = f'<span class="tl-why">{escape(v.why)}.{same}</span>' if v.why or same else ""
    return (
        f'{first}{why}</td><td>{chip(v)}<span class="tl-why">{where}</span></td>'
        f'<td>{lines}<span class="tl-why">{sure}n = {int(row["n"])} {of}</span></td></tr>'
    )


def tally_html(card: pd.DataFrame) -> str:
    """Return how many claims have which verdict, as a bar and a sentence; our own hypotheses apart.

    The largest scale of a claim counts, and one measurement counts once.
    """
    once = counted(card)
    own, theirs = (once[(once["kind"] == "hypothesis") == mine]["verdict"].value_counts() for mine in (True, False))
    total = int(theirs.sum())
    shown = [(v, int(theirs[v])) for v in VERDICT if v in theirs]
    bar = "".join(f'<span style="width:{100 * n / total:.2f}%;--tone:{VERDICT[v]}"></span>' for v, n in shown)
    words = " &middot; ".join(f"{badge(v)} {n}" for v, n in shown)
    ours = " &middot; ".join(f"{badge(v)} {int(own[v])}" for v in VERDICT if v in own)
    also = f"<p>Of {int(own.sum())} hypotheses of our own: {ours}.</p>" if len(own) else ""
    shared = len(card.drop_duplicates("claim")) - len(once)
    note = f"<p>Measurements that two claims share are counted once ({shared} left out).</p>" if shared else ""
    return f'<div class="tl-tally" aria-hidden="true">{bar}</div><p>Of {total} claims: {words}.</p>{also}{note}'


def papers_html(card: pd.DataFrame) -> str:
    """Return a card for each paper: what it is, and how many of its claims were tested."""
    tested = card[card["verdict"] != UNTESTED].drop_duplicates("claim").groupby("paper").size()
    total = card.drop_duplicates("claim").groupby("paper").size()
    items = []
    for p in papers().values():
        title = f"<strong>{escape(p.title)}</strong>{escape(p.authors)}, {escape(p.venue)} {p.year}"
        note = f" {escape(p.note)}" if p.note else ""
        items.append(f"<li>{title}. {tested.get(p.key, 0)} of {total[p.key]} claims tested.{note}</li>")
    return f'<ul class="tl-cards">{"".join(items)}</ul>'
