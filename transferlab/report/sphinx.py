"""What the book asks of Sphinx beyond Jupyter Book: charts, formulas and pages that need no network.

- The Vega bundle comes from vl-convert and is loaded as one ordinary script, so that it works from disk too.
- Formulas become MathML while the book is built; browsers draw it without a script.
- Two scripts that Jupyter Book adds and that would ask the network, or fail, are taken out.
- The sidebar shows the verdicts of each chapter.
- The search names places in pages, not only pages.
- Entries of the bibliography get the role that a list's children must have.
"""

import html
import json
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
SCRIPTS = {"vega.js": "tl-chart", "transferlab.js": "", "record.js": "tl-record", "togglebutton.js": " dropdown"}
SCRIPTS |= dict.fromkeys(("places.js", "search.js"), "<search>")
PLACE = re.compile(r'<(?:section|div|tr|li|figure)\b[^>]*\bid="([^"]+)"[^>]*>')
ENDS = re.compile(r"(?<=\w[.?!])</p>|</h\d>|(?<=[\w?!])</strong>")
MARKUP = re.compile(r'<(script|style|template|svg|form|pre)\b.*?</\1>|<a class="headerlink.*?</a>|<[^>]*>', re.DOTALL)
UNWANTED = ("sphinx-thebe", "thebe", "require.js", "embed-amd", "design-tabs")
UNUSED = "scripts/fontawesome|searchtools|language_data|searchindex|doctools|sphinx_highlight"  # of the theme's scripts
HEAVY = re.compile(rf"<script[^>]*/(?:{UNUSED})\.js[^>]*></script>")


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
        if script != "togglebutton.js":  # which an extension brings
            app.add_js_file(script, defer="defer")


def dotted(context: dict) -> Callable[..., str]:
    """Return what makes the sidebar, with the signs of a chapter's verdicts beside its name."""
    plain, at = context["generate_toctree_html"], context["pathto"]

    def toctree(*given: object, **options: object) -> str:
        text = str(plain(*given, **options)).replace("<summary>", '<summary aria-label="more pages">')
        for page, words in context["verdicts"].items():
            link = rf'(<a class="[^"]*" href="{re.escape(at(page))}">.*?)(?=</a>)'
            text = re.sub(link, rf"\1 {piece('dots', words)}", text, flags=re.DOTALL)
        return text

    return toctree


def mend_page(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Take out what asks the network, is twice on the page, or has nothing to do on it; mend roles."""
    body = context.get("body", f"<{page}>")
    told = lambda script: f"{getattr(script, 'filename', '')}{getattr(script, 'attributes', '')}"  # noqa: E731
    scripts = context.get("script_files", [])
    unwanted = [*UNWANTED, *(script for script, needed_by in SCRIPTS.items() if needed_by not in body)]
    context["script_files"] = [s for s in scripts if not any(word in told(s) for word in unwanted)]
    if "verdicts" in context:
        context["generate_toctree_html"] = dotted(context)
    if "body" in context:  # as all but the search have
        context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')  # what a list's children have to be


def write_places(app: Sphinx, error: Exception | None) -> None:
    """Write what stands where in the pages, a row a place: page, its title, the place's id, and its text.

    Scripts of the theme that a page does not need are taken out: its icons come from a font, too.
    """
    rows = []
    for page in sorted(app.env.found_docs) if not error and app.builder.format == "html" else ():
        file = Path(app.outdir) / f"{page}.html"
        file.write_text(text := HEAVY.sub("", file.read_text("utf-8")), "utf-8")
        parts = PLACE.split(text.partition("<article")[2].partition("</article>")[0])
        told = (" ".join(html.unescape(MARKUP.sub(" ", ENDS.sub(" · ", part))).split()) for part in parts[2::2])
        title = app.env.titles[page].astext()
        rows += [(page, title, at, words) for at, words in zip(parts[1::2], told, strict=True) if words]
    if rows:
        (Path(app.outdir) / "_static" / "places.js").write_text(f"window.tlPlaces = {json.dumps(rows)};\n", "utf-8")


def setup(app: Sphinx) -> dict:
    """Register everything with Sphinx."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("builder-inited", write_vega)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("build-finished", write_places)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
