"""A folder of drawn pictures in class folders, to try things on where there is no network."""

import os
import tempfile
from itertools import product
from pathlib import Path

from PIL import Image

from ..errors import check
from ..paths import writable

SAMPLED = ("lobed-1-1", "lobed-3-1", "ring-1-3", "ring-3-3")  # of the synthetic world: two that are alike, twice
PER_SAMPLE, SAMPLE_SIZE = {"train": 40, "test": 20}, 64  # images of each class, px


def sample(folder: Path) -> int:
    """Draw pictures into ``folder/SPLIT/CLASS/N.png``, all or none, and return how many.

    Raises
    ------
    UserError
        If the folder is there and not empty, or cannot be written.
    """
    import torch

    from ..data.synthetic import FIRST_INDEX, World

    empty = not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))
    check(empty, "folder", folder, "must be new or empty; name another one")
    world, above = World(0.0), writable("folder", folder.absolute().parent)
    with tempfile.TemporaryDirectory(dir=above, prefix=f".{folder.name}.") as place:
        for (split, count), name in product(PER_SAMPLE.items(), SAMPLED):
            label, inside = world.classes.index(name), Path(place, "made", split, name)
            index = FIRST_INDEX[split] + 1000 * label + torch.arange(count)
            inside.mkdir(parents=True)
            for n, pixels in enumerate(world.render(index, torch.full((count,), label), SAMPLE_SIZE)):
                Image.fromarray(pixels.numpy()).save(inside / f"{n:02}.png")
        if folder.exists():
            folder.rmdir()
        Path(place, "made").rename(folder)
    return len(SAMPLED) * sum(PER_SAMPLE.values())
