"""Chromium for tests: pages from disk, without a network, and what is asked of every one of them."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

# Contrast of a colour of each element against what lies behind it, as (contrast, text) pairs.
CONTRAST = """([selector, property]) => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll(selector)].map((element) => {
    const back = behind(element);
    const [a, b] = [light(over(rgba(getComputedStyle(element)[property]), back)), light(back)];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent.trim().slice(0, 30)];
  });
}"""


def offline_page(browser, width: int = 1300, scheme: str = "light"):
    """Return a page in a context of its own with the network cut; its `trouble` is what it complains of or asks for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_offline(True)
    page = context.new_page()
    page.trouble = []
    page.on("console", lambda m: page.trouble.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.trouble.append(str(e)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else page.trouble.append(r.url))
    return page


def loaded(page) -> None:
    """Wait until the charts that are near what is seen are drawn."""
    page.wait_for_selector("html[data-charts='drawn']", state="attached")


def drawn(page) -> None:
    """Draw all charts of a page, as before it is printed, and wait for them."""
    loaded(page)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("!document.querySelector('.tl-chart:not([data-drawn])')")


def axe_findings(page, within: str = "body", contrast: bool = True) -> list[str]:
    """Return what axe finds serious or worse within a part of a page: the rule, and where it is broken.

    Code, whose colours are the theme's, is left out: contrasts take most of the time.
    """
    from axe_playwright_python.base import AXE_SCRIPT

    if not page.evaluate("!!window.axe"):
        page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], "preload": False}  # it would ask for the style sheets once more
    options["rules"] = {"color-contrast": {"enabled": contrast}}
    run = "([where, options]) => axe.run(where, options).then((found) => found.violations)"
    found = page.evaluate(run, [{"include": [[within]], "exclude": [[".highlight span"]]}, options])
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    return [f"{v['id']}: {', '.join(str(n['target'][0]) for n in v['nodes'])}" for v in serious]


def low_contrast(page, selector: str, colour: str = "color", least: float = 4.5) -> list:
    """Return the elements of which a colour (``color``, ``fill``, ``stroke``) is too near to what is behind them."""
    return [(round(c, 2), text) for c, text in page.evaluate(CONTRAST, [selector, colour]) if c < least]
