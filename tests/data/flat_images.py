"""Images of one flat colour a class, and the file formats that public data sets keep theirs in."""

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a class."""
    return (label * 83 % 256, label * 47 % 256, 250 - label * 2)


def pixels(label: int, side: int) -> np.ndarray:
    """Return a square image as uint8 (side, side, 3)."""
    return np.full((side, side, 3), colour(label), dtype=np.uint8)


def encoded(label: int, suffix: str = ".jpg", size: tuple[int, int] = (8, 8)) -> bytes:
    """Return an image file's content."""
    file = io.BytesIO()
    Image.new("RGB", size, colour(label)).save(file, Image.registered_extensions()[suffix.lower()])
    return file.getvalue()


def write(path: Path, content: bytes | str) -> str:
    """Write a file and return its MD5 sum."""
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def paint(path: Path, label: int, size: tuple[int, int] = (8, 8)) -> None:
    """Write an image in the format that its suffix names."""
    write(path, encoded(label, path.suffix, size))


def idx(array: np.ndarray) -> bytes:
    """Return an array as MNIST keeps it."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def mat(**content: object) -> bytes:
    """Return arrays as MATLAB keeps them."""
    file = io.BytesIO()
    savemat(file, content)
    return file.getvalue()


def packed(files: dict[str, bytes], zipped: bool = False) -> bytes:
    """Return a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if zipped else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()
