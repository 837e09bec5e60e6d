"""The kinds of chart that pages share. Each returns an altair chart as wide as its place; `Figure` puts it on the page.

A frame has one row a point. Arms are told apart by the column `by`, whose colours are `tones` (by its values in order).
What a reader chooses is `choose`: columns with their value at the start; charts show rows that equal them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
from IPython.display import HTML

from .pieces import piece
from .stats import Effect

Tones = Mapping[str, str]
Choice = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """How a chart looks, in whatever kinds of chart have in common.

    Attributes
    ----------
    choose : mapping of str to value, optional
        Columns that a reader chooses by, with their value at the start.
    front : str
        Vega expression of the rows that stand in full ink.
    level : float, optional
        Where a dashed line stands, such as a bar.
    zero : bool
        Whether the axis of values starts at zero.
    height, row : int
        In px: of a chart, or of each row of one that has rows.
    name : str
        What stands above the chart.
    log : bool
        Whether the axis below is logarithmic.
    label : str
        The column with the names of points, if they have any.
    size : int
        Of points without interval.
    joined : bool
        Whether a line joins the dots of a row, which otherwise have intervals and stand side by side.
    """

    choose: Choice | None = None
    front: str = "true"
    level: float | None = None
    zero: bool = False
    height: int = 250
    row: int = 32
    name: str = ""
    log: bool = False
    label: str = ""
    size: int = 60
    joined: bool = False

    def layered(self, parts: Sequence[alt.Chart], height: int = 0) -> alt.LayerChart:
        """Return the parts of a chart on top of each other, with what a reader may change."""
        chart = alt.layer(*parts).properties(width="container", height=height or self.height)
        chart = chart.properties(title=self.name) if self.name else chart
        return chart.add_params(*(alt.param(name=n, value=v) for n, v in (self.choose or {}).items()))


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    tones: Tones,
    *,
    titles: tuple[str, str],
    order: Sequence[str] = (),
    at: tuple[str, Any] | None = None,
    ends: bool = True,
    domain: Sequence[float] | None = None,
    **look: Any,
) -> alt.LayerChart:
    """Return lines with bands (columns ``low`` and ``high``, if there) and their names at their ends.

    Parameters
    ----------
    titles : pair of str
        Of the axes.
    order
        Of names, where the axis below has no numbers.
    at : pair of str and value, optional
        A parameter that marks a place on the axis, such as a slider's, and where it starts.
    ends : bool
        Whether lines are named, at the end where they lie farther apart.
    **look
        Fields of `Look`, as in all kinds of chart.
    """
    look = Look(**look)
    frame, scale = _within(frame, y, alt.Scale(zero=look.zero, nice=False, padding=8))
    scale = alt.Scale(domain=list(domain)) if domain else scale
    base = _chosen(frame, look.choose)
    values = sorted(frame[x].unique()) if not order else list(order)
    end = max((values[0], values[-1]), key=lambda at: _apart(frame.loc[frame[x] == at, y]))
    last = end == values[-1]
    room = ends * 0.033 * frame[by].astype(str).str.len().max()  # for names, as a share of the axis
    if order:
        places = [*values, ""] if ends and last else ["", *values] if ends else values
        axis = alt.Axis(labelAngle=0, grid=False, values=values)
        place = alt.X(f"{x}:N", title=titles[0], axis=axis, scale=alt.Scale(domain=places, padding=0.4))
    else:
        axis = alt.Axis(values=values, format=",.6~g", grid=False)
        low, high = float(values[0]), float(values[-1])
        if look.log:
            low, high = (low, high * (high / low) ** room) if last else (low * (low / high) ** room, high)
        else:
            low, high = (low, high + room * (high - low)) if last else (low - room * (high - low), high)
        reach = alt.Scale(type="log" if look.log else "linear", domain=[low, high], nice=False, padding=14)
        place = alt.X(f"{x}:Q", title=titles[0], scale=reach, axis=axis)
    height_of = alt.Y(f"{y}:Q", title=titles[1], scale=scale)
    ink = {"color": _tone(by, tones), "opacity": alt.condition(look.front, alt.value(1), alt.value(0.3))}
    tip = _tip(frame, [by, x, y, "low", "high", "seeds"])
    parts = [base.mark_line(strokeWidth=2.4, clip=True).encode(place, height_of, **ink)]
    parts += [base.mark_circle(size=48, clip=True).encode(place, height_of, tooltip=tip, **ink)]
    if "low" in frame:
        shade = alt.condition(look.front, alt.value(0.18), alt.value(0.06))
        band = base.mark_area(clip=True).encode(
            place, alt.Y("low:Q", title=titles[1]), alt.Y2("high:Q"), color=ink["color"], opacity=shade
        )
        rule = base.mark_rule(strokeWidth=1.4, opacity=0.55).encode(
            place, alt.Y("low:Q", title=titles[1]), alt.Y2("high:Q"), color=ink["color"]
        )
        parts.insert(0, rule if order else band)
    parts = [*_level(look.level, alt.Y("level:Q", title=titles[1])), *parts]
    if at:
        mark = base.transform_filter(f"datum.{x} == {at[0]}").mark_point(size=190, strokeWidth=2, filled=False)
        parts.append(mark.encode(place, height_of, **ink).add_params(alt.param(name=at[0], value=at[1])))
    if ends:
        name = _chosen(_beside(frame, x, y, end, look), look.choose)
        name = name.mark_text(fontSize=11, align="left" if last else "right", dx=9 if last else -9)
        parts.append(name.encode(place, alt.Y("beside:Q", title=titles[1]), text=f"{by}:N", **ink))
    return look.layered(parts)


def dots(frame: pd.DataFrame, y: str, x: str, by: str, tones: Tones, *, title: str, **look: Any) -> alt.LayerChart:
    """Return a row for each value of `y`: dots with intervals, or joined by a line."""
    look = Look(**look)
    frame, scale = _within(frame, x, alt.Scale(zero=look.zero, nice=False, padding=12))
    base, values = _chosen(frame, look.choose), list(dict.fromkeys(frame[y]))
    beside = by != y and not look.joined
    place, length = _row(y, values, apart=0.45 if beside else None), _along(x, title, scale)
    ink = {"color": _tone(by, tones), "opacity": alt.condition(look.front, alt.value(1), alt.value(0.25))}
    if beside:
        order = alt.Scale(domain=list(dict.fromkeys(frame[by])))
        ink["yOffset"] = alt.YOffset(f"{by}:N", sort=list(tones), scale=order)
    tip, ends = _tip(frame, [y, by, x, "low", "high", "seeds"]), (alt.X("low:Q", title=title), alt.X2("high:Q"))
    parts = _level(look.level, alt.X("level:Q", title=title))
    if look.joined:
        parts.append(base.mark_line(opacity=0.45, color="#8a8f98").encode(place, length, detail=f"{y}:N"))
    elif "low" in frame:
        parts.append(base.mark_rule(strokeWidth=2.5).encode(place, *ends, **ink))
    parts.append(base.mark_circle(size=110).encode(place, length, tooltip=tip, **ink))
    return look.layered(parts, 40 + look.row * len(values))


def forest(rows: Mapping[str, Effect], *, title: str, tones: Tones | None = None, name: str = "") -> alt.LayerChart:
    """Return effects by name as a forest plot against zero."""
    frame = pd.DataFrame(
        [{"what": k, "effect": e.mean, "low": e.low, "high": e.high, "seeds": e.n} for k, e in rows.items()]
    )
    colours = dict.fromkeys(rows, "#2878b5") | dict(tones or {})
    return dots(frame, "what", "effect", "what", colours, title=title, level=0.0, row=26, name=name)


def scatter(
    frame: pd.DataFrame, x: str, y: str, by: str, tones: Tones, *, titles: tuple[str, str], **look: Any
) -> alt.LayerChart:
    """Return points, named by the column `label` if there is one."""
    look = Look(**{"height": 300} | look)
    room = min(24, 2 * frame[look.label].astype(str).str.len().max()) if look.label else 0  # for names
    axis = {"zero": False, "nice": False, "padding": 10 + room}
    frame, scale = _within(frame, y, alt.Scale(**axis))
    base = _chosen(frame, look.choose)
    length = _along(x, titles[0], alt.Scale(type="log" if look.log else "linear", **axis))
    place = alt.Y(f"{y}:Q", title=titles[1], scale=scale)
    ink = {"color": _tone(by, tones), "opacity": alt.condition(look.front, alt.value(0.85), alt.value(0.25))}
    tip = _tip(frame, [c for c in (look.label, by, x, y) if c])
    parts = [base.mark_circle(size=look.size).encode(length, place, tooltip=tip, **ink)]
    if look.label:
        named = _chosen(_under(frame, x, y, look), look.choose).mark_text(
            fontSize=10, dy=alt.expr("datum.under ? 11 : -9")
        )
        parts.append(named.encode(length, place, text=f"{look.label}:N", **ink))
    return look.layered(parts)


def tiles(frame: pd.DataFrame, x: str, y: str, words: str, *, title: str, choose: Choice) -> alt.LayerChart:
    """Return a row of words for each value of `y`, under pictures where the column `picture` has their addresses."""
    base, values = _chosen(frame, choose), list(dict.fromkeys(frame[y]))
    place = alt.X(f"{x}:O", title=title, axis=alt.Axis(labelAngle=0)), _row(y, values)
    look, row = ({"limit": 56, "dy": 36}, 86) if "picture" in frame else ({"limit": 90}, 34)
    told = base.mark_text(fontSize=11, **look).encode(*place, text=words, tooltip=_tip(frame, [words, y, x]))
    parts = [base.mark_image(width=44, height=44).encode(*place, url="picture"), told] if "picture" in frame else [told]
    return Look(choose).layered(parts, 40 + row * len(values))


def schema(caption: str, **parts: str) -> HTML:
    """Return a network as a row of blocks, from pictures to head; each of `parts` is kept, trained or new.

    Parameters
    ----------
    caption : str
    **parts : {"kept", "trained", "new"}
        By block: ``conv``, ``FC6``, ``FC7``, ``head``, or what stands beside one (``FC7_new``); in order.
    """
    return HTML(piece("schema", caption, parts))


def _row(y: str, values: Sequence[Any], apart: float | None = None) -> alt.Y:
    """Return rows; `apart`: what is left free between those of several marks each."""
    free = {"scale": alt.Scale(paddingInner=apart, paddingOuter=apart / 2)} if apart else {}
    return alt.Y(f"{y}:N", title="", sort=list(values), axis=alt.Axis(labelLimit=230, grid=False), **free)


def _along(x: str, title: str, scale: alt.Scale) -> alt.X:
    axis = {"labelFlush": 8, "titleAnchor": "end" if len(title) > 16 else "middle"}
    axis |= {} if scale.to_dict().get("type") == "log" else {"tickCount": 5}
    return alt.X(f"{x}:Q", title=title, scale=scale, axis=alt.Axis(**axis))


def _within(frame: pd.DataFrame, value: str, scale: alt.Scale) -> tuple[pd.DataFrame, alt.Scale]:
    """Return a frame and the scale of a value; an ``accuracy``, and its interval as drawn, end at 0 and 100%.

    What has no interval, of one seed, shows none.
    """
    known = {c: frame[c].replace([-math.inf, math.inf], math.nan) for c in ("low", "high") if c in frame}
    frame = frame.assign(**known)
    if value != "accuracy":
        return frame, scale
    frame = frame.assign(**{c: frame[c].clip(0, 100) for c in ("low", "high") if c in frame})
    drawn = frame[[c for c in (value, "low", "high") if c in frame]]
    low, high = drawn.min(axis=None), drawn.max(axis=None)
    room = 0.08 * (high - low)
    if low <= room:
        return frame, alt.Scale(zero=True, nice=True)
    return frame, scale if high < 100 - room else alt.Scale(domain=[low - room, 100], nice=False)


def _groups(frame: pd.DataFrame, look: Look) -> list[pd.DataFrame]:
    """Return the rows that are shown together."""
    by = [name for name in look.choose or {} if name in frame]
    return [rows for _, rows in frame.groupby(by, sort=False)] if by else [frame]


def _beside(frame: pd.DataFrame, x: str, y: str, end: Any, look: Look) -> pd.DataFrame:
    """Return the rows at an end of the lines, and where their names stand: a line of text apart."""
    found = []
    for rows in _groups(frame, look):
        drawn = rows[[c for c in (y, "low", "high") if c in rows]]
        gap, at = 18 * (drawn.max(axis=None) - drawn.min(axis=None)) / look.height, rows[rows[x] == end].sort_values(y)
        places: list[float] = []
        for value in at[y]:
            places.append(max(value, places[-1] + gap) if places else value)
        found.append(at.assign(beside=places))
    return pd.concat(found).drop(columns="runs", errors="ignore")


def _under(frame: pd.DataFrame, x: str, y: str, look: Look) -> pd.DataFrame:
    """Return the points that have a name, and whether it stands under its point: another one's is close above."""
    found = []
    for rows in _groups(frame, look):
        near, high = (0.2 * (rows[x].max() - rows[x].min()), 0.1 * (rows[y].max() - rows[y].min()))
        named = rows[rows[look.label] != ""]
        above = [
            ((named[x] - a).abs().lt(near) & (named[y] - b).between(0, high)).sum() > 1
            for a, b in zip(named[x], named[y], strict=True)
        ]
        found.append(named.assign(under=above))
    return pd.concat(found).drop(columns="runs", errors="ignore")


def _level(value: float | None, place: alt.X | alt.Y) -> list[alt.Chart]:
    """Return a dashed line at a value; nothing without one."""
    if value is None:
        return []
    return [alt.Chart(pd.DataFrame({"level": [value]})).mark_rule(strokeDash=[5, 4], opacity=0.7).encode(place)]


def _apart(values: pd.Series) -> float:
    """Return the least distance between different values."""
    return float(values.drop_duplicates().sort_values().diff().min()) if values.nunique() > 1 else 0.0


def _tone(by: str, tones: Tones) -> alt.Color:
    return alt.Color(f"{by}:N", legend=None, scale=alt.Scale(domain=list(tones), range=list(tones.values())))


def _chosen(frame: pd.DataFrame, choose: Choice | None) -> alt.Chart:
    wanted = " && ".join(f"datum.{name} == {name}" for name in choose or {} if name in frame)
    return alt.Chart(frame).transform_filter(wanted) if wanted else alt.Chart(frame)


def _tip(frame: pd.DataFrame, columns: Sequence[str]) -> list[alt.Tooltip]:
    shown = [c for c in dict.fromkeys(columns) if c in frame]
    numeric = pd.api.types.is_float_dtype
    return [alt.Tooltip(f"{c}:Q", format=",.4~g") if numeric(frame[c]) else alt.Tooltip(c) for c in shown]
