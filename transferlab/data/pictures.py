"""Pictures of image sets for pages, which are drawn while a page is made, where the sets are at hand.

Nothing here imports torch, but for pictures of the synthetic world.
"""

import base64
import io
from collections.abc import Iterable
from contextlib import suppress

from PIL import Image, ImageOps

from ..errors import UserError, check
from ..specs.catalog import pinned
from .readers import open_set


def address(picture: Image.Image) -> str:
    """Return a picture as a URL that holds it: WebP."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def pictures(name: str, rows: Iterable[int], size: int, split: str = "train") -> dict[int, str]:
    """Return images of a set's stored split, squares of `size` px, as URLs; none where it is not at hand.

    Parameters
    ----------
    name : str
        As `readers.open_set` takes it, or of the synthetic world.
    rows : iterable of int
        In the order in which the split is stored.
    size : int
        Of what is cut from the middle.
    split : {"train", "validation", "test"}
    """
    if name.startswith("synthetic:"):
        from ..specs import ImageSet
        from .images import load  # with torch, which draws them

        pixels = load(ImageSet(name), size).splits[split].pixels
        return {row: address(Image.fromarray(pixels[row].numpy())) for row in {*rows}}
    with suppress(UserError):
        about = pinned(name)
        items = open_set(name).without({*about.get("skipped", ())}).splits[split]
        check(len(items) == about["splits"][split], "data set", name, "is another one than that of the records")
        cut = {row: ImageOps.fit(items[row].image(), (size, size), Image.Resampling.BOX) for row in {*rows}}
        return {row: address(picture) for row, picture in cut.items()}
    return {}
