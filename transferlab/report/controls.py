"""Controls that a reader can move. In the book they need no kernel; in a live notebook they are ipywidgets.

An `Explorer` changes a chart, a sentence and an interval that are all computed beforehand. A `Workbench` trains again,
so it wants a kernel; in the book it leaves a line that says how to get one.
"""

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import altair as alt
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
        Value by the text that stands for it; the first one is chosen at the start.
    slider : bool
        A slider over the options instead of a list.
    """

    label: str
    options: Mapping[str, object]
    slider: bool = False

    @property
    def first(self) -> object:
        """The value chosen at the start."""
        return next(iter(self.options.values()))


class Explorer:
    """A figure whose chart, sentence and interval follow the reader's choice.

    Parameters
    ----------
    draw : callable
        From a value for each control, by name, to a chart, or several, each with a Vega parameter of each of these
        names.
    controls : mapping of str to Control
    states : DataFrame
        One row for every combination of values: a column for each control, ``sentence`` and ``interval``.
    caption, records, name, legend
        As in `Figure`.

    Raises
    ------
    UserError
        If a combination has no row.
    """

    def __init__(
        self,
        draw: Callable[..., alt.TopLevelMixin | list[alt.TopLevelMixin]],
        controls: Mapping[str, Control],
        states: pd.DataFrame,
        caption: str,
        records: pd.DataFrame,
        name: str,
        legend: Mapping[str, str] | None = None,
    ) -> None:
        self.draw, self.controls, self.states = draw, dict(controls), states.set_index(list(controls)).sort_index()
        wanted = pd.MultiIndex.from_product([c.options.values() for c in self.controls.values()])
        wanted = wanted if len(self.controls) > 1 else wanted.get_level_values(0)
        lacking = wanted.difference(self.states.index)
        check(lacking.empty, "states", list(lacking[:1]), "every combination of the controls needs a row")
        twice = self.states.index[self.states.index.duplicated()]
        check(twice.empty, "states", list(twice[:1]), "has more than one row")
        self.start = {key: c.first for key, c in self.controls.items()}
        self.figure = Figure(draw(**self.start), caption, records, name, legend)

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
            f'<div class="tl-finding" aria-live="polite"><p class="tl-sentence">{html.escape(sentence)}</p>'
            f'<p class="tl-interval">{html.escape(interval)}</p></div>'
            f'<script type="application/json" class="tl-states">{data}</script>'
        )
        return f'<div class="tl-explorer">{self.figure.html(above)}</div>'

    def _field(self, key: str, control: Control) -> str:
        name, first = f"{self.figure.name}-{key}", html.escape(next(iter(control.options)))
        values = [json.dumps(v, default=_number) for v in control.options.values()]
        label = html.escape(control.label)
        if not control.slider:
            pairs = zip(map(html.escape, values), map(html.escape, control.options), strict=True)
            options = "".join(f'<option value="{value}">{text}</option>' for value, text in pairs)
            return f'<label for="{name}">{label}</label><select id="{name}" name="{key}">{options}</select>'
        texts = html.escape(json.dumps(list(control.options)))
        return (
            f'<label for="{name}">{label} <output for="{name}">{first}</output></label>'
            f'<input id="{name}" name="{key}" type="range" min="0" max="{len(values) - 1}" value="0" '
            f'aria-valuetext="{first}" data-texts="{texts}" data-values="{html.escape(json.dumps(values))}">'
        )

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(self.html()) if in_book() else self.panel())

    def panel(self):
        """Return the explorer for a live notebook, as ipywidgets: the controls, and what follows them.

        The chart is put into its place, not captured there: capturing makes papermill wait for ever now and then.
        """
        import ipywidgets as widgets

        boxes = {k: _widget(c) for k, c in self.controls.items()}
        finding, chart = widgets.HTML(), widgets.Output()

        def show(_: object = None) -> None:
            values = {k: box.value for k, box in boxes.items()}
            sentence, interval = self.state(values)
            finding.value = f"<p>{html.escape(sentence)}<br>{html.escape(interval)}</p>"
            chart.outputs = ()
            drawn = self.draw(**values)
            for one in drawn if isinstance(drawn, list) else [drawn]:
                chart.append_display_data(one)

        for box in boxes.values():
            box.observe(show, "value")
        show()
        return widgets.VBox([*boxes.values(), finding, chart])


class Workbench:
    """Controls and a button that train again, in a live notebook.

    Parameters
    ----------
    train : callable
        From a value for each control, by name, to something to show. Called when the button is pressed.
    controls : mapping of str to Control
    notebook : str
        The file to open, named in the book's line.
    """

    def __init__(self, train: Callable[..., object], controls: Mapping[str, Control], notebook: str) -> None:
        self.train, self.controls, self.notebook = train, dict(controls), notebook

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if in_book():
            choices = html.escape(", ".join(c.label.lower() for c in self.controls.values()))
            words = f"With a kernel this place holds a workbench: choose {choices}, and train again. Open "
            words += f"<code>{html.escape(self.notebook)}</code> in Jupyter (with jupytext) and run all cells."
            display(HTML(f'<p class="tl-workbench">{words}</p>'))
            return
        display(self.panel())

    def panel(self):
        """Return the workbench as ipywidgets: the controls, the button, and an output for what was trained."""
        import ipywidgets as widgets
        from IPython.display import display

        boxes = {k: _widget(c) for k, c in self.controls.items()}
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


def _widget(control: Control):
    import ipywidgets as widgets

    kind = widgets.SelectionSlider if control.slider else widgets.Dropdown
    style = {"description_width": "initial"}
    return kind(options=list(control.options.items()), description=control.label, style=style)


def _number(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)
