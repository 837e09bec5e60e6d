"""Decode one picture: upright, in RGB with eight bits a channel, white where it is transparent. No torch here."""

import io
import os
import re
from contextlib import suppress
from importlib import import_module

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from ..errors import UserError, check, line
from ..paths import stands_for

VERSION = 2  # raise it when pixels change: of pictures for which `version` says so, and their fingerprint with them
LONG = 16  # times the short side, above which the middle of a picture is cut out before it is resized
TURNS = dict(zip(range(2, 9), (Image.Transpose[t] for t in (
    "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"
)), strict=True))  # fmt: skip
ORIENTATION = 0x0112  # the tag of EXIF
ALLOW = "TRANSFERLAB_MAX_PIXELS"

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # long words cost no picture
with suppress(ImportError):  # it registers itself with Pillow
    import_module("pillow_jxl")
with suppress(ImportError):
    import_module("pillow_heif").register_heif_opener()


class TooLargeError(UserError):
    """A picture has more pixels than are allowed."""


def reason(content: bytes | Image.Image, error: Exception) -> str:
    """Return in a line why a picture cannot be decoded."""
    if content == b"":
        return "empty"
    if isinstance(content, bytes) and (pointer := stands_for(content)):
        return "{}; get the image itself with: {}".format(*pointer)
    return (
        "UnidentifiedImageError: no picture that Pillow knows"
        if isinstance(error, UnidentifiedImageError)
        else line(error)
    )


def opened(content: bytes | Image.Image) -> Image.Image:
    """Return a picture whose header is read; its pixels may not be."""
    if allowed := os.environ.get(ALLOW):
        check(allowed.isdecimal() and int(allowed) > 0, ALLOW, allowed, "must be a number of pixels")
        Image.MAX_IMAGE_PIXELS = (int(allowed) + 1) // 2  # Pillow warns there, and refuses at twice as many
    return Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content


def version(content: bytes | Image.Image, box: tuple[float, ...] = ()) -> int:
    """Return which version of decoding a picture's pixels are of: 1 for all that later ones did not change."""
    with suppress(Exception):  # it is damaged, which decoding says
        picture = opened(content)
        width, height = (box[2] - box[0], box[3] - box[1]) if box else picture.size
        deep = picture.mode in ("F", "I", "LAB")
        if deep or picture.has_transparency_data or max(width, height) > LONG * min(width, height):
            return VERSION
    return 1


def upright_size(content: bytes | Image.Image) -> tuple[int, int] | None:
    """Return the width and height of a picture as `decode` turns it, from its header; nothing if it has none."""
    with suppress(Exception):
        picture = opened(content)
        turned = picture.getexif().get(ORIENTATION) in (5, 6, 7, 8)
        return picture.size[::-1] if turned else picture.size
    return None


def fitted(width: int, height: int, size: int) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
    """Return how `images.shrink` makes a square: the part of a very long picture that is cut out first (left, top,
    width, height), the size to which that is resized, and the left upper corner of the centre crop.
    """
    long = LONG * min(width, height)
    wide, high = min(width, long), min(height, long)
    scale = size / min(wide, high)
    new = max(size, round(wide * scale)), max(size, round(high * scale))
    middle = (width - wide) // 2, (height - high) // 2, wide, high
    return middle, new, ((new[0] - size) // 2, (new[1] - size) // 2)


def several(content: bytes | Image.Image) -> bool:
    """Return whether a file holds several pictures, of which the first is read: an animation, pages."""
    with suppress(Exception):
        return bool(getattr(opened(content), "is_animated", False))
    return False


def decode(content: bytes | Image.Image) -> Image.Image:
    """Return a picture upright and in RGB, the first one of several.

    Raises
    ------
    TooLargeError
    Exception
        Of any kind: what Pillow raises for a damaged file is all that a parser can trip over.
    """
    try:
        picture = opened(content)
        if picture.format == "TIFF":
            _spare(picture)
        picture.load()
    except Image.DecompressionBombError as e:
        pixels = re.search(r"\d+", str(e))[0]
        raise TooLargeError(f"is too large: {int(pixels):,} pixels; allow it with {ALLOW}={pixels}") from e
    try:
        turn = TURNS.get(picture.getexif().get(ORIENTATION))
    except Exception:  # a damaged tag of EXIF
        turn = None
    picture = _rgb(picture)
    return picture if turn is None else picture.transpose(turn)


def _spare(picture: Image.Image) -> None:
    """Leave of a TIFF's EXIF the orientation alone: Pillow asks for all of it as soon as it has the pixels."""
    with suppress(Exception):
        picture.getexif()
    exif = picture.getexif()  # what could be read
    turn = picture.tag_v2.get(ORIENTATION) or exif.get(ORIENTATION)
    for tag in list(exif):
        del exif[tag]
    if turn in TURNS:
        exif[ORIENTATION] = turn


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        clear = picture.info.get("transparency")
        grey = picture.convert("I").point(lambda v: v / 256).convert("L")
        if clear is not None:
            grey = Image.fromarray(np.where(np.asarray(picture.convert("I")) == clear, 255, grey).astype(np.uint8))
        return grey.convert("RGB")
    if picture.mode in ("F", "I"):
        return _eight_bits(np.asarray(picture)).convert("RGB")
    if picture.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    seen = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _eight_bits(values: np.ndarray) -> Image.Image:
    """Return whole numbers of 32 bits, or floats, in grey: their range is not in the file, so it is that of the values.

    Up to 1 (floats), 255 or 65,535 is the first of these that holds them; what exceeds these, or is negative, is
    stretched from the least (or 0) to the greatest. What is no number is black.
    """
    finite = values[np.isfinite(values)].astype(float)
    low, high = finite.min(initial=0), finite.max(initial=0)
    unit = values.dtype.kind == "f" and low >= 0 and high <= 1
    if low >= 0 and high <= 65535:
        low, high = 0, 1 if unit else 255 if high < 256 else 65280  # 65,280 is 255 x 256: the upper eight bits
    grey = (np.nan_to_num(values.astype(float), nan=low, posinf=high, neginf=low) - low) * 255 / (high - low)
    return Image.fromarray((grey + 0.5 * unit).clip(0, 255).astype(np.uint8))
