"""One colour language for every chart: a colour means the same thing on every page, in light and in dark."""

import tomllib
from pathlib import Path

import altair as alt

from ..arms.growing import GROWN as GROWN

SOURCE = "#c2571a"  # accuracy on the source's own task
TRANSFER = "#2878b5"  # accuracy on a target after transfer
GAIN = "#2a9d7c"  # gain over training from scratch
SCRATCH = "#8a8f98"  # training from scratch
PROBE = "#b58900"  # frozen features
JOINT = "#c0497b"  # joint fine-tuning
SERIES = (TRANSFER, SOURCE, GAIN, PROBE, JOINT, SCRATCH)  # where colours tell no more than one from another
LOOK = tomllib.loads(Path(__file__).with_name("theme.toml").read_text("utf-8"))
VERDICT = {word: look["tone"] for word, look in LOOK["verdicts"].items()}
SIGNS = {word: look["sign"] for word, look in LOOK["verdicts"].items()}


def names(name: str) -> str:
    """Return how an image set is called on the page."""
    if name.startswith("synthetic:") and name not in LOOK["names"]:
        return f"synthetic at distance {name.removeprefix('synthetic:')}"
    return LOOK["names"].get(name, name.removeprefix("torchvision:"))


def at_start(words: str) -> str:
    """Return words as they stand at the start of a sentence."""
    return words[:1].upper() + words[1:]


def config(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """Return a chart with the book's look: ink from the page, no frame, light grid, direct labels."""
    return chart.configure(**LOOK["config"]).configure_view(stroke=None)
