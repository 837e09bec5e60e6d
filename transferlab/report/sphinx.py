"""What the book asks of Sphinx beyond Jupyter Book: charts, formulas and pages that need no network.

- The Vega bundle comes from vl-convert and is loaded as one ordinary script, so that it works from disk too.
- Formulas become MathML while the book is built; browsers draw it without a script.
- Two scripts that Jupyter Book adds and that would ask the network, or fail, are taken out.
- The sidebar shows the verdicts of each chapter.
- Entries of the bibliography get the role that a list's children must have.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import scipy.stats  # noqa: F401  (before autodoc puts a stand-in in torch's place, which scipy would ask)
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

from .cards import piece
from .figure import BOOK, vega

# Scripts, and what is on a page that needs them.
SCRIPTS = {"vega.js": "tl-chart", "transferlab.js": 'class="tl-', "whatif.js": "tl-play", "record.js": "tl-record"}
UNWANTED = ("sphinx-thebe", "thebe", "require.js", "embed-amd")


def formula(self, node: nodes.math | nodes.math_block) -> None:
    """Write a formula, inline or displayed, as MathML."""
    displayed = isinstance(node, nodes.math_block)
    markup = convert(node.astext(), display="block" if displayed else "inline")
    self.body.append(f'<div class="math notranslate">{markup}</div>' if displayed else markup)
    raise nodes.SkipNode


def write_vega(app: Sphinx) -> None:
    """Write the Vega bundle into the book."""
    os.environ[BOOK] = "1"
    if app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "vega.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file():
        target.write_text(vega(), "utf-8")
    for script in SCRIPTS:
        app.add_js_file(script, defer="defer")


def dotted(context: dict) -> Callable[..., str]:
    """Return what makes the sidebar, with the signs of a chapter's verdicts beside its name."""
    plain, at = context["generate_toctree_html"], context["pathto"]

    def toctree(*given: object, **options: object) -> str:
        text = str(plain(*given, **options))
        for page, words in context["verdicts"].items():
            link = rf'(<a class="[^"]*" href="{re.escape(at(page))}">.*?)(?=</a>)'
            text = re.sub(link, rf"\1 {piece('dots', words)}", text, flags=re.DOTALL)
        return text

    return toctree


def mend_page(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Take out what asks the network, is twice on the page, or has nothing to do on it; mend roles."""
    body = context.get("body", "")
    told = lambda script: f"{getattr(script, 'filename', '')}{getattr(script, 'attributes', '')}"  # noqa: E731
    scripts = context.get("script_files", [])
    unwanted = [*UNWANTED, *(script for script, needed_by in SCRIPTS.items() if needed_by not in body)]
    context["script_files"] = [s for s in scripts if not any(word in told(s) for word in unwanted)]
    if "verdicts" in context:
        context["generate_toctree_html"] = dotted(context)
    context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')  # what a list's children have to be


def setup(app: Sphinx) -> dict:
    """Register everything with Sphinx."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("builder-inited", write_vega)
    app.connect("html-page-context", mend_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
