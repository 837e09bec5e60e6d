"""Figures of the book: a chart with its caption, its numbers as a table and as CSV. Live, a plain chart."""

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import altair as alt
import pandas as pd

from .theme import config

BOOK = "TRANSFERLAB_BOOK"
Charts = alt.TopLevelMixin | list[alt.TopLevelMixin]  # one, or several side by side
Words = Mapping[str, str] | None
Formats = Mapping[str, Callable[[object], str]]  # how the values of a column are printed


def in_book() -> bool:
    """Whether the page is being made, rather than looked at by a person with a kernel."""
    return bool(os.environ.get(BOOK))


def csv_link(records: pd.DataFrame, name: str) -> str:
    """Return a link that saves a table as ``NAME.csv``, without a server."""
    data = base64.b64encode(records.to_csv(index=False).encode()).decode()
    return f'<a class="tl-csv" download="{escape(name)}.csv" href="data:text/csv;base64,{data}">CSV</a>'


def _cell(value: object) -> object:
    """Return a number as it is printed: four significant digits, thousands apart, a true minus sign."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        return value
    text = f"{value:,}".replace(".0", "") if float(value).is_integer() else f"{value:.4g}"
    return text.replace("-", "−")


def table_html(records: pd.DataFrame, columns: Words = None, formats: Formats | None = None) -> str:
    """Return a table as HTML; numbers have four significant digits unless `formats` says how a column is printed."""
    shown = records.astype(object)
    for column, write in (formats or {}).items():
        shown[column] = shown[column].map(write, na_action="ignore")
    shown = shown.where(records.notna(), "")[list(columns or records)].rename(columns=columns or {})
    text = shown.map(_cell).to_html(index=False, border=0, classes="tl-table")
    return scrolling(text, "table")


def scrolling(table: str, label: str) -> str:
    """Return a table as HTML in a frame that scrolls where it is too wide for the page."""
    return f'<div class="tl-scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def chart_html(chart: alt.TopLevelMixin, label: str) -> str:
    """Return the place where the page's script draws a chart, with its specification inside."""
    spec = json.dumps(config(chart).to_dict()).replace("</", "<\\/")
    script = f'<script type="application/json">{spec}</script>'
    return f'<div class="tl-chart" role="img" aria-label="{escape(label)}">{script}</div>'


def bars(frame: pd.DataFrame, what: str, tones: Mapping[str, str]) -> alt.Chart:
    """Return accuracies in percent as bars, one for each value of a column, in the order and the colours of `tones`."""
    y = alt.Y(f"{what}:N", title="", sort=list(tones), axis=alt.Axis(labelLimit=200, grid=False))
    tone = alt.Color(f"{what}:N", legend=None, scale=alt.Scale(domain=list(tones), range=list(tones.values())))
    tip = [alt.Tooltip(f"{what}:N"), alt.Tooltip("accuracy:Q", format=".1f")]
    x = alt.X("accuracy:Q", title="test accuracy, %")
    chart = alt.Chart(frame).mark_bar(size=18).encode(y, x, tone, tooltip=tip)
    return chart.properties(width="container", height=40 + 26 * frame[what].nunique())


class Figure:
    """A chart, or several side by side, that says what to see.

    Parameters
    ----------
    chart : altair chart or list of them
    caption : str
        What to see, in a sentence or two (plain text).
    records : DataFrame
        The numbers behind the chart: its text alternative, and the CSV.
    name : str
        File name of the CSV, without ending.
    legend : mapping of str to str, optional
        Colour by what it stands for.
    """

    def __init__(self, chart: Charts, caption: str, records: pd.DataFrame, name: str, legend: Words = None) -> None:
        self.charts = chart if isinstance(chart, list) else [chart]
        self.caption, self.records, self.name, self.legend = caption, records, name, legend or {}

    def html(self, above: str = "") -> str:
        """Return the figure as HTML for the book, with something more above the chart."""
        drawn = "".join(chart_html(c, self.caption) for c in self.charts)
        drawn = f'<div class="tl-panels tl-panels-{len(self.charts)}">{drawn}</div>' if len(self.charts) > 1 else drawn
        keys = "".join(f'<li style="--tone:{colour}">{escape(word)}</li>' for word, colour in self.legend.items())
        legend = f'<ul class="tl-legend">{keys}</ul>' if keys else ""
        return (
            f'<figure class="tl-figure" id="{self.name}">{above}{legend}{drawn}'
            f"<figcaption>{escape(self.caption)}</figcaption>"
            f'<details class="tl-numbers"><summary>The numbers</summary>{table_html(self.records)}</details>'
            f"{csv_link(self.records, self.name)}</figure>"
        )

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if in_book():
            display(HTML(self.html()))
            return
        wide = [c.properties(width=480) if c.to_dict().get("width") == "container" else c for c in self.charts]
        display(*wide, HTML(f"<p>{escape(self.caption)}</p>"))


@dataclass(eq=False, repr=False)
class Table:
    """A table with a caption, and its records as CSV.

    Parameters
    ----------
    records : DataFrame
        What the CSV holds.
    caption, name : str
    columns : mapping of str to str, optional
        Columns to show, and their headings.
    markup : str, optional
        HTML of the table where the plain rendering will not do.
    folded : bool
        Shows the table only when asked.
    """

    records: pd.DataFrame
    caption: str
    name: str
    columns: Words = None
    markup: str = ""
    folded: bool = False

    def _repr_html_(self) -> str:
        shown = self.markup or table_html(self.records, self.columns)
        if self.folded:
            shown = f"<details><summary>Show {len(self.records)} rows</summary>{shown}</details>"
        return (
            f'<figure class="tl-figure tl-figure-table" id="{self.name}">{shown}'
            f"<figcaption>{escape(self.caption)}</figcaption>{csv_link(self.records, self.name)}</figure>"
        )
