"""Images that look alike, by near perceptual hashes. No torch here."""

from collections.abc import Iterator

import imagehash
import numpy as np
from PIL import Image

HASHES = 256  # that are compared with all others at once


def look_hash(picture: Image.Image) -> int:
    """Return the perceptual hash of a picture: 64 bits."""
    return int.from_bytes(np.packbits(imagehash.phash(picture).hash).tobytes(), "big")


def near(hashes: np.ndarray, bits: int) -> Iterator[np.ndarray]:
    """Yield the pairs of uint64 hashes that differ in at most so many bits, some at a time: positions, (pairs, 2)."""
    for first in range(0, len(hashes), HASHES):
        apart = np.bitwise_count(hashes[first : first + HASHES, None] ^ hashes[None, first:])
        i, j = np.nonzero(apart <= bits)
        yield np.stack([i, j], 1)[i < j] + first
