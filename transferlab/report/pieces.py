"""HTML of pages: the macros of ``pieces.jinja``. Whatever they are given is escaped, unless it is markup itself."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

PIECES = Environment(
    loader=FileSystemLoader(Path(__file__).parent, "utf-8"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    auto_reload=False,
)
PIECES.filters["json"] = json.dumps


def script_json(data: Any, **options: Any) -> Markup:
    """Return data as JSON for a script, which nothing in it ends; `options` are those of ``json.dumps``."""
    return Markup(json.dumps(data, **options).replace("</", "<\\/"))


def piece(name: str, *given: Any) -> Markup:
    """Return the HTML that a macro makes of what it is given."""
    return getattr(PIECES.get_template("pieces.jinja").module, name)(*given)
