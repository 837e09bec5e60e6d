"""Decoding of every format and kind of picture, whole and damaged; kept values say when its version must be raised."""

import hashlib
import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from transferlab.data import decoding
from transferlab.data.images import shrink
from transferlab.data.opened import Item, Opened
from transferlab.data.pinning import look
from transferlab.errors import UserError

Image.init()
BLOCKS = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).resize((64, 64), 0)


def encoded(picture: Image.Image, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def shown(content) -> np.ndarray:
    picture = Item("x", 0, lambda: content).image()
    assert picture.mode == "RGB"
    return np.asarray(picture)


def refused(content: bytes) -> str:
    with pytest.raises(UserError, match=r"^image \(=x\): [^\n]+$") as caught:
        Item("x", 0, lambda: content).image()
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------- formats

HANDLERS = {"BUFR", "GRIB", "HDF5", "WMF"}  # Pillow writes them where a program has told it how
FOREIGN = {"PDF", "PALM", "EPS"}  # what Pillow writes and does not read, without another program
MODES = {"MSP": "1", "XBM": "1", "BLP": "P", "PALM": "P", "SPIDER": "F"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(Image.SAVE.keys() - HANDLERS))
def test_every_format_that_pillow_writes_whole_and_truncated(kind):
    content = encoded(BLOCKS.convert(MODES.get(kind, "RGB")), kind)
    if kind in FOREIGN:
        refused(content)
        return
    whole = shown(content)
    if kind not in MODES and kind != "ICNS":  # which has sizes of its own
        assert np.abs(whole.astype(int) - np.asarray(BLOCKS)).mean() < (
            1 if kind not in ("GIF", "WEBP", "AVIF", "JPEG", "MPO") else 25
        )
    for share in (0.1, 0.5, 0.9):
        try:
            cut = shown(content[: int(share * len(content))])
        except UserError as e:
            assert str(e).startswith("image (=x): cannot be read (")  # noqa: PT017
        else:
            assert np.array_equal(cut, whole)  # what is missing was not of the picture


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"<html>no such page</html>", "a web page; get the image itself with: a download of the file itself"),
        (b"no picture", "UnidentifiedImageError: no picture that Pillow knows"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
            "a Git LFS pointer; get the image itself with: git lfs pull",
        ),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(content, why):
    assert refused(content) == f"image (=x): cannot be read ({why})"


def test_whatever_a_parser_trips_over(monkeypatch):
    for error in (struct.error("x"), IndexError("x"), ZeroDivisionError("x"), MemoryError("x"), AssertionError("x")):
        monkeypatch.setattr(Image.Image, "getexif", lambda self: {})
        monkeypatch.setattr(Image, "open", lambda file, error=error: (_ for _ in ()).throw(error))
        assert refused(b"abc") == f"image (=x): cannot be read ({type(error).__name__}: x)"


# ------------------------------------------------------------------------------------------------- values of pixels


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
        ([-1.0, 0.0, 1.0], [0, 127, 255]),
        ([0.0, 1e6, 2e6], [0, 127, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 255, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
@pytest.mark.parametrize("size", [None, (3, 1)], ids=["TIFF", "in memory"])
def test_floats_have_the_range_of_their_values(values, wanted, size):
    picture = Image.fromarray(np.array([values], np.float32))
    assert shown(picture if size else encoded(picture, "TIFF"))[0, :, 0].tolist() == wanted


def test_whole_numbers_of_32_bits_have_the_range_of_their_values():
    for values, wanted in (([0, 100, 255], [0, 100, 255]), ([0, 512, 65535], [0, 2, 255]), ([-9, 0, 9], [0, 127, 255])):
        assert shown(encoded(Image.fromarray(np.array([values], np.int32)), "TIFF"))[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces(mode):
    grey = {"CMYK": (0, 0, 0, 128), "YCbCr": (127, 128, 128), "LAB": (137, 128, 128)}[
        mode
    ]  # L* 53.6 is sRGB 127 or 128
    pixel = shown(encoded(Image.new(mode, (2, 2), grey), "TIFF"))[0, 0].astype(int)
    assert np.abs(pixel - 127).max() <= 3


def test_palettes_with_transparency_and_grey_with_alpha_as_gif_and_webp():
    frame = Image.new("P", (2, 1))
    frame.putpalette([10, 20, 30, 200, 100, 50])
    frame.putdata([0, 1])
    assert shown(encoded(frame, "GIF", transparency=1))[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    assert shown(encoded(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "WEBP", lossless=True)).min() == 255


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_of_several_pictures_the_first_is_read_and_they_are_counted(kind):
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    content = encoded(first, kind, save_all=True, append_images=[second])
    assert np.abs(shown(content)[8, 8].astype(int) - [200, 0, 0]).max() < 12
    items = [Item(str(i), i % 2, lambda c=c: c) for i, c in enumerate([content, encoded(first)])]
    assert look(Opened("x", ("a", "b"), {"train": items})) == ({}, 1)


# ------------------------------------------------------------------------------------------------------------ EXIF


def exif(*entries, order="<") -> bytes:
    """A directory of EXIF: tag, type, count, value."""
    offset, data, body = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            value, data = struct.pack(order + "I", offset + len(data)), data + value
        body += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + data


TURNED = (274, 3, 1, struct.pack("<H", 6))
ODD = {
    "negative": (282, 10, 1, struct.pack("<ii", -1, 0)),
    "text for a number": (282, 2, 3, b"72\0"),
    "number for a choice": (296, 5, 1, struct.pack("<II", 2, 1)),
    "no such type": (282, 99, 1, b"\1\2\3\4"),
    "beyond the end": (282, 5, 1000, struct.pack("<I", 9999)),
    "maker's note": (37500, 7, 8, b"\xff" * 8),
    "position": (34853, 4, 1, struct.pack("<I", 7777)),
    "directory": (34665, 4, 1, struct.pack("<I", 3)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD)
def test_a_damaged_tag_costs_neither_the_picture_nor_its_turn(kind, odd):
    content = encoded(Image.new("RGB", (40, 30), (200, 40, 10)), kind, exif=exif(TURNED, ODD[odd]))
    assert shown(content).shape[:2] == (40, 30)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("turn", range(10))
def test_tiff_is_upright_though_its_tags_are_damaged(turn):
    """The tags of a TIFF are those of EXIF."""
    content = encoded(Image.new("RGB", (40, 30)), "TIFF", tiffinfo={274: turn, 282: 1.0, 270: "words", 33432: "mine"})
    for bad in (b"words", b"mine\0"):
        at = content.index(struct.pack("<H", {b"words": 270, b"mine\0": 33432}[bad]), content.index(b"II") + 4)
        broken = content[: at + 2] + struct.pack("<HI", 12, 90000) + content[at + 8 :]
        assert shown(broken).shape[:2] == ((40, 30) if 5 <= turn <= 8 else (30, 40))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cut", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*", b"\xff" * 30])
def test_half_a_header_of_exif(cut):
    assert shown(encoded(BLOCKS, "JPEG", exif=cut)).shape == (64, 64, 3)


def test_long_words_cost_no_picture():
    words = PngImagePlugin.PngInfo()
    words.add_text("prompt", "a" * 3_000_000, zip=True)
    assert shown(encoded(BLOCKS, pnginfo=words)).shape == (64, 64, 3)


# ----------------------------------------------------------------------------------------------- sizes, and the version


def test_a_very_long_picture_takes_no_more_than_is_kept(monkeypatch):
    made = []
    really = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *a: (made.append(size), really(self, size, *a))[1])
    for size in ((2, 12000), (12000, 2)):
        picture = Image.new("RGB", size, (255, 0, 0))
        picture.paste((9, 99, 199), (size[0] // 2 - 40, size[1] // 2 - 40, size[0] // 2 + 40, size[1] // 2 + 40))
        assert (shrink(picture, 32) == (9, 99, 199)).all()
    assert max(w * h for w, h in made) <= 16 * 32 * 32


@pytest.mark.filterwarnings("ignore")
def test_too_large_is_called_too_large_and_may_be_allowed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    content = encoded(Image.new("RGB", (64, 64)))
    assert refused(content) == "image (=x): is too large: 4,096 pixels; allow it with TRANSFERLAB_MAX_PIXELS=4096"
    monkeypatch.setenv("TRANSFERLAB_MAX_PIXELS", "4000")
    assert "is too large" in refused(content)
    monkeypatch.setenv("TRANSFERLAB_MAX_PIXELS", "4096")
    assert shown(content).shape == (64, 64, 3)
    monkeypatch.setenv("TRANSFERLAB_MAX_PIXELS", "many")
    assert "TRANSFERLAB_MAX_PIXELS (=many): must be a number of pixels" in refused(content)


KINDS = {
    "plain": (BLOCKS, 1),
    "grey": (BLOCKS.convert("L"), 1),
    "palette": (BLOCKS.quantize(16), 1),
    "16 bits": (Image.fromarray(np.asarray(BLOCKS.convert("L")).astype(np.uint16) * 257), 1),
    "alpha": (Image.merge("RGBA", [*BLOCKS.split(), BLOCKS.convert("L")]), 2),
    "grey and alpha": (Image.merge("LA", [BLOCKS.convert("L")] * 2), 2),
    "floats": (Image.fromarray(np.asarray(BLOCKS.convert("L")) / np.float32(255)), 2),
    "32 bits": (Image.fromarray(np.asarray(BLOCKS.convert("L")).astype(np.int32) * 1000), 2),
    "long": (BLOCKS.resize((1100, 64), 0), 2),
}
KEPT = {
    "plain": "e4c1506e",
    "grey": "df37759c",
    "palette": "bcac1c7f",
    "16 bits": "df37759c",
    "alpha": "0636598a",
    "grey and alpha": "34fb0864",
    "floats": "df37759c",
    "32 bits": "7379c852",
    "long": "ffcc781c",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kept_values_and_versions(kind):
    """If these values change, raise `decoding.VERSION`, and let `version` say of which pictures."""
    picture, version = KINDS[kind]
    content = encoded(picture, "TIFF" if kind in ("floats", "32 bits") else "PNG")
    pixels = shrink(Item("x", 0, lambda: content).image(), 32)
    assert (hashlib.sha256(pixels.tobytes()).hexdigest()[:8], decoding.version(content)) == (KEPT[kind], version)


def test_the_version_is_in_the_fingerprint_of_what_it_changed(monkeypatch):
    for kind, (picture, version) in KINDS.items():
        content = encoded(picture, "TIFF")
        item = Item("x", 0, lambda content=content: content)
        before = item.digest()
        assert (before == hashlib.sha256(content).hexdigest()) == (version == 1), kind
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "VERSION", 3)
            assert (item.digest() == before) == (version == 1), kind
