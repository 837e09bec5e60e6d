"""The synthetic world with a few images a class, for tests that look at values and not at how well a network does."""

import functools
import tempfile

import pytest

from transferlab.data import images, synthetic

WORLD = {"source": {"train": 4, "validation": 1, "test": 2}, "target": {"train": 5, "validation": 1, "test": 2}}  # images a class


@pytest.fixture(scope="module", autouse=True)
def small_world():
    """Every test of the module that imports this fixture sees the small world."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("TRANSFERLAB_CACHE", folder)  # where the whole world is not kept
        shrink_world(patch)
        yield


def shrink_world(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(synthetic, "PER_CLASS", WORLD)
    patch.setattr(images, "synthetic_set", functools.cache(images.synthetic_set.__wrapped__))
