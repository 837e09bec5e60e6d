"""Pages that need nothing but themselves: their frame, and how numbers stand on them. No torch here."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .. import __version__
from ..specs.catalog import passed_over

HERE = FileSystemLoader(Path(__file__).parent, "utf-8")
PAGES = Environment(loader=HERE, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a share, `hits` of `n`, by Wilson's method."""
    from scipy.stats import binomtest  # not at the top: it takes a second

    found = binomtest(hits, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def percent(share: float, digits: int = 1) -> str:
    """Return a share as it is read: ``87.5%``."""
    return f"{100 * share:.{digits}f}%"


def page(template: str, **values: object) -> str:
    """Return what a template makes of some values: a page that fetches nothing, or a text."""
    return PAGES.get_template(template).render(version=__version__, **values)


PAGES.filters |= {"percent": percent, "passed_over": passed_over}
