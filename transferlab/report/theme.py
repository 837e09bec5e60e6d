"""One colour language for every chart: a colour means the same thing on every page, in light and in dark."""

import altair as alt

from ..arms.growing import GROWN as GROWN

SOURCE = "#c2571a"  # accuracy on the source's own task
TRANSFER = "#2878b5"  # accuracy on a target after transfer
GAIN = "#2a9d7c"  # gain over training from scratch
SCRATCH = "#8a8f98"  # training from scratch
PROBE = "#b58900"  # frozen features
JOINT = "#c0497b"  # joint fine-tuning
VERDICT = {"supported": "#2a9d7c", "contradicted": "#c0392b", "inconclusive": "#b58900", "not tested": "#8a8f98"}

FONT = "Inter, Segoe UI, Helvetica Neue, Roboto, Liberation Sans, Arial, sans-serif"
INK = "currentColor"


def names(name: str) -> str:
    """Return how an image set is called on the page."""
    known = {
        "tiny-imagenet": "Tiny ImageNet",
        "flowers102": "Flowers-102",
        "caltech101": "Caltech-101",
        "cifar100": "CIFAR-100",
        "scene15": "15-Scene",
        "mnist": "MNIST",
        "synthetic:source": "synthetic source",
    }
    if name.startswith("pacs/"):
        return "PACS " + name.removeprefix("pacs/").replace("_", " ")
    if name.startswith("synthetic:") and name not in known:
        return f"synthetic at distance {name.removeprefix('synthetic:')}"
    return known.get(name, name.removeprefix("torchvision:"))


def at_start(words: str) -> str:
    """Return words as they stand at the start of a sentence."""
    return words[:1].upper() + words[1:]


def config(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """Return a chart with the book's look: ink from the page, no frame, light grid, direct labels."""
    ink = {"labelColor": INK, "titleColor": INK}
    words = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    lines = {f"{part}Color": INK for part in ("domain", "tick", "grid")}
    lines |= {"gridOpacity": 0.12, "domainOpacity": 0.4, "tickOpacity": 0.4}
    return (
        chart.configure(background="transparent", font=FONT)
        .configure_view(stroke=None)
        .configure_axis(**ink, **words, **lines, titlePadding=8)
        .configure_legend(**ink, **words, orient="top")
        .configure_header(**ink, labelFontSize=13, labelFontWeight="bold", labelPadding=4)
        .configure_title(color=INK, fontSize=14, anchor="start")
        .configure_text(color=INK)
        .configure_rule(color=INK)
    )
