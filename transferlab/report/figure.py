"""Figures of the book: a chart with its caption, its numbers as a table and as CSV. Live, a plain chart."""

import base64
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import altair as alt
import pandas as pd

from .theme import config

BOOK = "TRANSFERLAB_BOOK"
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")  # in text: the page's script takes it for one
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
    """Return a number as it is printed: four significant digits, thousands apart, a true minus sign, no minus zero."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        return value
    whole = f"{value + 0:,}".removesuffix(".0")
    return (whole if whole.strip("-").replace(",", "").isdigit() else f"{value:.4g}").replace("-", "−")


def table_html(records: pd.DataFrame, columns: Words = None, formats: Formats | None = None) -> str:
    """Return a table as HTML; numbers have four significant digits unless `formats` says how a column is printed."""
    shown = records.astype(object)
    for column, write in (formats or {}).items():
        shown[column] = shown[column].map(write, na_action="ignore")
    shown = shown.where(records.notna(), "")[list(columns or records)].rename(columns=columns or {}).map(_cell)
    row = lambda cells, tag: "".join(f"<{tag}>{escape(str(c), quote=False)}</{tag}>" for c in cells)  # noqa: E731
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in shown.itertuples(index=False, name=None))
    head = f"<thead><tr>{row(shown, 'th')}</tr></thead>"
    return scrolling(f'<table class="tl-table">{head}<tbody>{body}</tbody></table>', "table")


def scrolling(table: str, label: str) -> str:
    """Return a table as HTML in a frame that scrolls where it is too wide; the page's script names it where it does."""
    return f'<div class="tl-scroll" data-label="{escape(label)}">{table}</div>'


def _folded(records: pd.DataFrame, summary: str, columns: Words = None, markup: str = "") -> str:
    """Return a table that the page's script makes from the figure's CSV, or of `markup`, when it is opened."""
    texts = lambda column: any(isinstance(v, str) and NUMBER.fullmatch(v) for v in records[column])  # noqa: E731
    told = [(c, (columns or {}).get(c, c), not texts(c)) for c in columns or records]
    inside = f"<template>{markup}</template>" if markup else ""
    return (
        f'<details class="tl-numbers" data-columns="{escape(json.dumps(told, ensure_ascii=False))}">'
        f"<summary>{summary}</summary>{inside}<noscript>They are in the file below.</noscript></details>"
    )


def chart_html(chart: alt.TopLevelMixin, label: str) -> str:
    """Return the place where the page's script draws a chart, with its specification inside, which has its name."""
    spec = config(chart).to_dict()
    spec.setdefault("description", label)
    high = f' style="min-height:{spec["height"]}px"' if isinstance(spec.get("height"), int | float) else ""
    text = json.dumps(spec).replace("</", "<\\/")
    return f'<div class="tl-chart"{high}><script type="application/json">{text}</script></div>'


def _title(chart: alt.TopLevelMixin, else_: str) -> str:
    """Return what stands above a panel."""
    title = chart.to_dict().get("title") or else_
    title = title["text"] if isinstance(title, dict) else title
    return title if isinstance(title, str) else " ".join(title)


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
    alt : str
        What the chart says to who cannot see it: the message and its two end values. Otherwise the caption.
    toy : bool
        What was trained while the page was made, to be told apart from the evidence.
    """

    def __init__(
        self, chart: Charts, caption: str, records: pd.DataFrame, name: str, legend: Words = None, alt="", toy=False
    ) -> None:
        self.charts = chart if isinstance(chart, list) else [chart]
        self.caption, self.records, self.name, self.legend = caption, records, name, legend or {}
        self.alt, self.toy = alt or caption, toy

    def html(self, above: str = "") -> str:
        """Return the figure as HTML for the book, with something more above the chart."""
        n = len(self.charts)
        names = [
            f"{_title(c, f'Panel {i} of {n}')}: {self.alt}" if n > 1 else self.alt for i, c in enumerate(self.charts, 1)
        ]
        drawn = "".join(map(chart_html, self.charts, names))
        drawn = f'<div class="tl-panels tl-panels-{n}">{drawn}</div>' if n > 1 else drawn
        toy = '<p class="tl-toy-label">toy run</p>' if self.toy else ""
        keys = "".join(f'<li style="--tone:{colour}">{escape(word)}</li>' for word, colour in self.legend.items())
        legend = f'<ul class="tl-legend">{keys}</ul>' if keys else ""
        return (
            f'<figure class="tl-figure{" tl-toy" if toy else ""}" id="{self.name}">{toy}{above}{legend}{drawn}'
            f"<figcaption>{escape(self.caption)}</figcaption>{_folded(self.records, 'The numbers')}"
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
        summary = f"Show {len(self.records)} rows"
        if self.folded and in_book():
            shown = _folded(self.records, summary, self.columns, self.markup)
        else:
            shown = self.markup or table_html(self.records, self.columns)
            shown = f"<details><summary>{summary}</summary>{shown}</details>" if self.folded else shown
        return (
            f'<figure class="tl-figure tl-figure-table" id="{self.name}">{shown}'
            f"<figcaption>{escape(self.caption)}</figcaption>{csv_link(self.records, self.name)}</figure>"
        )
