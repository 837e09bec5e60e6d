"""Folders of drawn pictures, and what is asked of every page that stands alone."""

from pathlib import Path

import numpy as np
from browsing import axe_findings, offline_page
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """Something smooth with a few shapes, like no other one."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def put(folder: Path, pictures: dict[str, Image.Image | bytes]) -> Path:
    """Write pictures, or files of some bytes, by name."""
    for name, image in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image) if isinstance(image, bytes) else image.save(path)
    return folder


def looks_right(browser, path: Path, *at: tuple[int, str]) -> None:
    """A page asks for nothing, fits, says what its pictures are, and has no serious finding of axe, wide and narrow, in
    light and in dark; contrasts are asked for where both are other ones.
    """
    for width, scheme in at or ((1300, "light"), (360, "dark"), (1300, "dark"), (360, "light")):
        page = offline_page(browser, width, scheme)
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('img').forEach((i) => (i.loading = 'eager'))")
        page.wait_for_function("[...document.images].every((i) => i.complete)")
        assert page.evaluate("[...document.images].every((i) => i.naturalWidth > 0 && i.alt)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert axe_findings(page, contrast=not at and (width, scheme) in ((1300, "light"), (360, "dark"))) == []
        assert page.trouble == []
        page.context.close()
