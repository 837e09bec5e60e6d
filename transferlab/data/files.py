"""What lies in a folder: its pictures, and, counted by kind, what is passed over. No torch here."""

import os
import stat
import unicodedata
from collections import defaultdict
from typing import NamedTuple

from PIL import Image

# What Pillow opens by itself, the same list on every machine; .jxl and .heic with a plug-in of Pillow's.
FORMATS = (
    "jpg jpeg jpe jfif mpo png apng webp avif avifs bmp dib gif tif tiff ppm pgm pbm pnm pfm jp2 j2k jpc jpf jpx j2c "
    "ico icns cur tga icb vda vst pcx dcx dds psd qoi sgi rgb rgba bw ras im xbm xpm msp blp ftc ftu gbr fit fits fli "
    "flc pcd pxr jxl heic heif hif"
)
IMAGE_SUFFIXES = {f".{name}" for name in FORMATS.split()}
SNIFFED = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000")  # looked for in files without a suffix
TABLE_SUFFIXES = {".csv", ".tsv"}
LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "#recycle", "lost+found"}
LEFT_BEHIND |= {"system volume information"}
Parts = tuple[str, ...]


class File(NamedTuple):
    """A file: names of the folders below the set's, and its own, as they are written everywhere; where it lies."""

    parts: Parts
    place: str

    @property
    def path(self) -> str:
        return "/".join(self.parts)


class Found(NamedTuple):
    """What lies below a folder: pictures (or what is wanted), tables, folders not hidden, and what was passed over."""

    pictures: list[File]
    tables: list[File]
    folders: set[Parts]
    passed: dict[str, list[str]]


def written(name: str) -> str:
    r"""Return a file's name as it is written on every system: composed Unicode, a byte that is none as ``\xe9``."""
    return composed(os.fsencode(name).decode("utf-8", "backslashreplace"))


def letters(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return "".join(c for c in text.casefold() if c.isalnum())


def composed(text: str) -> str:
    """Return text in composed Unicode: an accent may be a letter's, or a character of its own."""
    return unicodedata.normalize("NFC", text)


def walk(folder: str, wanted: set[str] = IMAGE_SUFFIXES) -> Found:
    """Look through a folder for pictures, or for files of other suffixes; links are followed, but not in a circle."""
    images = wanted is IMAGE_SUFFIXES
    found = Found([], [], set(), defaultdict(list))
    waiting: list[tuple[str, Parts, frozenset]] = [(folder, (), frozenset())]
    while waiting:
        place, parts, above = waiting.pop()
        try:
            about = os.stat(place)
            with os.scandir(place) as entries:
                inside = sorted(entries, key=lambda e: e.name)
        except OSError:
            found.passed["folders that cannot be read"].append("/".join(parts) or ".")
            continue
        here = about.st_dev, about.st_ino
        if here in above:
            found.passed["links in a circle"].append("/".join(parts))
            continue
        for entry in inside:
            file = File((*parts, written(entry.name)), entry.path)
            hidden = any(p.startswith(".") or p.casefold() in LEFT_BEHIND for p in file.parts)
            suffix = os.path.splitext(file.parts[-1])[1].lower()
            try:
                mode = os.stat(entry.path).st_mode
            except OSError:
                kind = "broken links" if entry.is_symlink() else "files that cannot be read"
                found.passed[kind].append(file.path)
                continue
            if stat.S_ISDIR(mode):
                waiting.append((entry.path, file.parts, above | {here}))
                if not hidden:
                    found.folders.add(file.parts)
            elif hidden:
                found.passed["hidden"].append(file.path)
            elif not stat.S_ISREG(mode):
                found.passed["no plain files"].append(file.path)
            elif suffix in wanted or (images and suffix in ("", ".") and _is_picture(entry.path)):
                found.pictures.append(file)
            elif images and suffix in TABLE_SUFFIXES:
                found.tables.append(file)
            else:
                found.passed["other suffixes"].append(file.path)
    for names in (found.pictures, found.tables, *found.passed.values()):
        names.sort()
    return found


def read_file(place: str) -> bytes:
    """Return a file's bytes."""
    with open(place, "rb") as file:
        return file.read()


def _is_picture(place: str) -> bool:
    try:
        with Image.open(place, formats=SNIFFED):
            return True
    except Exception:
        return False
