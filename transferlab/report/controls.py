"""Controls that a reader can move. In the book they need no kernel; in a live notebook they are ipywidgets.

An `Explorer` changes a chart, a sentence and an interval that are all computed beforehand. A `Workbench` trains again,
so it wants a kernel; in the book it leaves a line that says how to get one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import product

from markupsafe import Markup

from ..errors import check
from .figure import Figure, drawn_here, in_book
from .pieces import piece, script_json


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
    buttons : bool
        A button for each of the options, which are few.
    start : object
        The value at the start: where the verdict was read. Otherwise the first one.
    """

    label: str
    options: Mapping[str, object]
    slider: bool = False
    start: object = None
    buttons: bool = False

    @property
    def first(self) -> int:
        """Which of the options is chosen at the start."""
        values = list(self.options.values())
        check(self.start is None or self.start in values, "start", self.start, f"must be one of {values}")
        return 0 if self.start is None else values.index(self.start)

    def widget(self):
        """Return the control as an ipywidget."""
        import ipywidgets as widgets

        kind = widgets.SelectionSlider if self.slider else widgets.ToggleButtons if self.buttons else widgets.Dropdown
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
    say : callable
        From a value for each control, by name, to a sentence and an interval; asked beforehand for every combination.
    *figure, **options
        What `Figure` takes beside its chart: caption, records, name, legend, alt, toy.
    """

    def __init__(self, draw: Callable, controls: Controls, say: Callable, *figure, **options) -> None:
        self.draw, self.controls = draw, controls
        combinations = product(*(c.options.values() for c in controls.values()))
        self.states = {values: say(**dict(zip(controls, values, strict=True))) for values in combinations}
        self.start = {key: list(c.options.values())[c.first] for key, c in controls.items()}
        self.figure = Figure(draw(**self.start), *figure, **options)

    def state(self, values: Mapping[str, object]) -> tuple[str, str]:
        """Return the sentence and the interval for a choice."""
        return self.states[tuple(values[k] for k in self.controls)]

    def html(self) -> Markup:
        """Return the explorer for the book: native form controls, and all states as data."""
        fields = [self._field(key, c) for key, c in self.controls.items()]
        states = [{"key": key, "sentence": text, "interval": found} for key, (text, found) in self.states.items()]
        above = piece("chooser", fields, *self.state(self.start), script_json(states, default=_number))
        return Markup('<div class="tl-explorer">{}</div>').format(self.figure.html(above))

    def _field(self, key: str, control: Control) -> Markup:
        values = [json.dumps(v, default=_number) for v in control.options.values()]
        return piece("field", f"{self.figure.name}-{key}", key, control, list(control.options), values)

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
            with drawn_here():
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

    def html(self) -> Markup:
        """Return a line for the book that says how to get the workbench."""
        choices = ", ".join(c.label.lower() for c in self.controls.values())
        return piece("workbench", choices, self.notebook)

    def panel(self):
        """Return the workbench as ipywidgets: the controls, the button, and an output for what was trained."""
        import ipywidgets as widgets

        boxes = {k: c.widget() for k, c in self.controls.items()}
        options = {"manual": True, "manual_name": "Train", "auto_display": True}
        train = lambda **values: self.train(**values)  # noqa: E731 (without defaults: of these it would make widgets)
        return widgets.interactive(train, options, **boxes)


def _number(value: object) -> object:
    return value.item() if hasattr(value, "item") else str(value)
