"""Controls that a reader can move. In the book they need no kernel; in a live notebook they are ipywidgets.

An `Explorer` changes a chart, a sentence and an interval that are all computed beforehand. A `Workbench` trains again,
so it wants a kernel; in the book it leaves a line that says how to get one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

import pandas as pd

from ..errors import check
from .figure import Figure, in_book


@dataclass(frozen=True)
class Control:
    """Something to choose from.

    Parameters
    ----------
    label : str
        What it chooses, in a word or two.
    options : mapping of str to object
        Value by the text that stands for it.
    slider : bool
        A slider over the options instead of a list.
    start : object
        The value at the start: where the verdict was read. Otherwise the first one.
    """

    label: str
    options: Mapping[str, object]
    slider: bool = False
    start: object = None

    @property
    def first(self) -> int:
        """Which of the options is chosen at the start."""
        values = list(self.options.values())
        check(self.start is None or self.start in values, "start", self.start, f"must be one of {values}")
        return 0 if self.start is None else values.index(self.start)

    def widget(self):
        """Return the control as an ipywidget."""
        import ipywidgets as widgets

        kind = widgets.SelectionSlider if self.slider else widgets.Dropdown
        style = {"description_width": "initial"}
        return kind(options=list(self.options.items()), index=self.first, description=self.label, style=style)


Controls = Mapping[str, Control]


class Controlled:
    """What follows controls: `html` in the book, `panel` of ipywidgets in a live notebook."""

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(self.html()) if in_book() else self.panel())


class Explorer(Controlled):
    """A figure whose chart, sentence and interval follow the reader's choice.

    Parameters
    ----------
    draw : callable
        From a value for each control, by name, to a chart, or several, each with a Vega parameter of each of these
        names.
    controls : mapping of str to Control
    states : DataFrame
        One row for every combination of values: a column for each control, ``sentence`` and ``interval``.
    *figure, **options
        What `Figure` takes beside its chart: caption, records, name, legend, alt, toy.

    Raises
    ------
    UserError
        If a combination has no row.
    """

    def __init__(self, draw: Callable, controls: Controls, states: pd.DataFrame, *figure, **options) -> None:
        self.draw, self.controls, self.states = draw, controls, states.set_index(list(controls)).sort_index()
        wanted = pd.MultiIndex.from_product([c.options.values() for c in controls.values()])
        wanted = wanted if len(controls) > 1 else wanted.get_level_values(0)
        lacking = wanted.difference(self.states.index)
        check(lacking.empty, "states", list(lacking[:1]), "every combination of the controls needs a row")
        twice = self.states.index[self.states.index.duplicated()]
        check(twice.empty, "states", list(twice[:1]), "has more than one row")
        self.start = {key: list(c.options.values())[c.first] for key, c in controls.items()}
        self.figure = Figure(draw(**self.start), *figure, **options)

    def state(self, values: Mapping[str, object]) -> tuple[str, str]:
        """Return the sentence and the interval for a choice."""
        key = tuple(values[k] for k in self.controls)
        row = self.states.loc[key if len(key) > 1 else key[0]]
        return row["sentence"], row["interval"]

    def html(self) -> str:
        """Return the explorer for the book: native form controls, and all states as data."""
        fields = "".join(self._field(key, c) for key, c in self.controls.items())
        rows = self.states[["sentence", "interval"]].to_dict("index").items()
        states = [{"key": list(key if isinstance(key, tuple) else (key,)), **state} for key, state in rows]
        sentence, interval = self.state(self.start)
        data = json.dumps(states, default=_number).replace("</", "<\\/")
        above = (
            f'<form class="tl-controls">{fields}</form>'
            '<div class="tl-finding" aria-live="polite" aria-atomic="true">'
            f'<p class="tl-sentence">{escape(sentence)}</p><p class="tl-interval">{escape(interval)}</p></div>'
            f'<script type="application/json" class="tl-states">{data}</script>'
        )
        return f'<div class="tl-explorer">{self.figure.html(above)}</div>'

    def _field(self, key: str, control: Control) -> str:
        name, label, texts = f"{self.figure.name}-{key}", escape(control.label), list(control.options)
        values = [json.dumps(v, default=_number) for v in control.options.values()]
        first, text = control.first, escape(texts[control.first])
        if not control.slider:
            marks = ["selected" if i == first else "" for i in range(len(texts))]
            rows = zip(map(escape, values), marks, map(escape, texts), strict=True)
            options = "".join(f'<option value="{value}" {mark}>{word}</option>' for value, mark, word in rows)
            return f'<label for="{name}">{label}</label><select id="{name}" name="{key}">{options}</select>'
        return (
            f'<label for="{name}">{label} <output for="{name}" aria-live="off">{text}</output></label>'
            f'<input id="{name}" name="{key}" type="range" min="0" max="{len(texts) - 1}" value="{first}" '
            f'aria-valuetext="{text}" data-texts="{escape(json.dumps(texts))}" '
            f'data-values="{escape(json.dumps(values))}">'
        )

    def panel(self):
        """Return the explorer for a live notebook, as ipywidgets: the controls, and what follows them.

        The chart is put into its place, not captured there: capturing makes papermill wait for ever now and then.
        """
        import ipywidgets as widgets

        boxes = {k: c.widget() for k, c in self.controls.items()}
        finding, chart = widgets.HTML(), widgets.Output()

        def show(_: object = None) -> None:
            values = {k: box.value for k, box in boxes.items()}
            sentence, interval = self.state(values)
            finding.value = f"<p>{escape(sentence)}<br>{escape(interval)}</p>"
            chart.outputs = ()
            drawn = self.draw(**values)
            for one in drawn if isinstance(drawn, list) else [drawn]:
                chart.append_display_data(one)

        for box in boxes.values():
            box.observe(show, "value")
        show()
        return widgets.VBox([*boxes.values(), finding, chart])


class Workbench(Controlled):
    """Controls and a button that train again, in a live notebook.

    Parameters
    ----------
    train : callable
        From a value for each control, by name, to something to show. Called when the button is pressed.
    controls : mapping of str to Control
    notebook : str
        The file to open, named in the book's line.
    """

    def __init__(self, train: Callable[..., object], controls: Controls, notebook: str) -> None:
        self.train, self.controls, self.notebook = train, controls, notebook

    def html(self) -> str:
        """Return a line for the book that says how to get the workbench."""
        choices = escape(", ".join(c.label.lower() for c in self.controls.values()))
        words = f"With a kernel this place holds a workbench: choose {choices}, and train again. Open "
        words += f"<code>{escape(self.notebook)}</code> in Jupyter (with jupytext) and run all cells."
        return f'<p class="tl-workbench">{words}</p>'

    def panel(self):
        """Return the workbench as ipywidgets: the controls, the button, and an output for what was trained."""
        import ipywidgets as widgets
        from IPython.display import display

        boxes = {k: c.widget() for k, c in self.controls.items()}
        button, out = widgets.Button(description="Train", button_style="primary", icon="play"), widgets.Output()

        def press(_: object) -> None:
            button.disabled = True
            out.clear_output()
            try:
                with out:
                    display(self.train(**{k: box.value for k, box in boxes.items()}))
            finally:
                button.disabled = False

        button.on_click(press)
        return widgets.VBox([*boxes.values(), button, out])


def _number(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)
