"""Images of a pool that look like a target's test images: pairs of near perceptual hashes."""

import imagehash
import torch
from PIL import Image

from ..data.images import load
from ..errors import check
from ..specs import Duplicates
from ..specs.artefacts import stored_split

HASH = 64  # bits
PIECE = 4096  # hashes that are compared with all others at once


def hashes(pixels: torch.Tensor) -> torch.Tensor:
    """Return the perceptual hash of each image, uint8 (N, size, size, 3), as float32 (N, 64) of -1 and 1.

    The 8 x 8 lowest frequencies of a discrete cosine transform of the luma, above or below their median (`imagehash`).
    """
    found = [imagehash.phash(Image.fromarray(image.numpy())).hash.flatten() for image in pixels]
    return torch.stack([torch.from_numpy(bits) for bits in found]).float() * 2 - 1 if found else torch.empty(0, HASH)


def duplicates(made: Duplicates) -> dict[str, torch.Tensor]:
    """Find what `Duplicates` describes.

    Returns
    -------
    dict
        int64 ``pool``: rows of its stored training split, ascending; ``test``: of each the row of the nearest test
        image; ``bits``: in how many their hashes differ.

    Raises
    ------
    UserError
        If the pool has no training images, or the target no test images.
    """
    both = []
    for images, split in ((made.pool, "train"), (made.target, stored_split(made.target, "test"))):
        splits = load(images, made.size).splits
        check(split in splits, "data set", images.name, f"has no {split} images")
        both.append(hashes(splits[split].pixels))
    parts = [((HASH - part @ both[1].T) / 2).min(1) for part in both[0].split(PIECE)]
    bits, test = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    pool = (bits <= made.bits).nonzero().flatten()
    return {"pool": pool, "test": test[pool], "bits": bits[pool].long()}
