"""Test images of a target that are in the pool are found, whatever happened to them on the way, and others are not."""

from pathlib import Path

import imagehash
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from small_world import context, small_world  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import load
from transferlab.data.pinning import pin
from transferlab.errors import UserError
from transferlab.select.duplicates import duplicates, hashes
from transferlab.specs import Duplicates, ImageSet
from transferlab.store import Store


def picture(seed: int, size: int = 64) -> Image.Image:
    """Something smooth with a few shapes, like no other one."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def put(folder: Path, pictures: dict[str, Image.Image]) -> str:
    for name, image in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    pin(f"folder:{folder}")
    return f"folder:{folder}"


@pytest.fixture
def sets(tmp_path) -> tuple[str, str]:
    """A pool, and a target three of whose test images are in it: as they are, brighter and smaller, as a bad JPEG."""
    pool = {f"train/{'ab'[n % 2]}/{n}.png": picture(n) for n in range(12)}
    test = {f"test/{'cd'[n % 2]}/{n}.png": picture(100 + n) for n in range(6)}
    test["test/c/same.png"] = picture(3)
    test["test/d/other.png"] = ImageEnhance.Brightness(picture(7)).enhance(1.2).resize((50, 50))
    picture(10).save(tmp_path / "bad.jpg", quality=20)
    test["test/d/bad.png"] = Image.open(tmp_path / "bad.jpg")
    train = {f"train/{'cd'[n % 2]}/{n}.png": picture(200 + n) for n in range(4)} | {"train/c/kept.png": picture(5)}
    return put(tmp_path / "pool", pool), put(tmp_path / "target", test | train)


def test_what_is_in_both_is_found(sets, tmp_path):
    pool, target = sets
    found = duplicates(Duplicates(pool, target, 32))
    data = [load(ImageSet(name), 32).splits for name in sets]
    names = [[Path(n).stem for n in split.names] for split in (data[0]["train"], data[1]["test"])]
    assert {names[0][i]: names[1][j] for i, j in zip(found["pool"], found["test"], strict=True)} == {
        "3": "same",
        "7": "other",
        "10": "bad",
    }
    assert (found["bits"] <= 4).all()
    assert found["bits"][found["pool"].tolist().index(names[0].index("3"))] == 0
    assert found["pool"].tolist() == sorted(found["pool"].tolist())


def test_it_is_what_the_library_counts(sets, monkeypatch):
    """Distances one by one, as `imagehash` has them; in pieces of any size."""
    pool, target = sets
    data = [load(ImageSet(name), 32).splits for name in sets]
    one, other = (
        [imagehash.phash(Image.fromarray(image.numpy())) for image in pixels]
        for pixels in (data[0]["train"].pixels, data[1]["test"].pixels)
    )
    expected = [min(a - b for b in other) for a in one]
    monkeypatch.setattr("transferlab.select.duplicates.PIECE", 5)
    found = duplicates(Duplicates(pool, target, 32, bits=31))
    assert found["bits"].tolist() == [bits for bits in expected if bits <= 31]
    assert found["pool"].tolist() == [n for n, bits in enumerate(expected) if bits <= 31]


def test_hashes():
    pixels = torch.stack([torch.from_numpy(np.array(picture(n))) for n in range(3)])
    found = hashes(pixels)
    assert found.shape == (3, 64)
    assert set(found.unique().tolist()) == {-1, 1}
    assert hashes(pixels[:0]).shape == (0, 64)


def test_it_is_kept_also_where_there_are_none(tmp_path):
    made = Duplicates("synthetic:source", "synthetic:1", 16, 0)
    found = context(tmp_path).arrays(made)
    assert Store(tmp_path).file(made).is_file()
    again = context(tmp_path).arrays(made)
    assert all(torch.equal(found[name], again[name]) for name in ("pool", "test", "bits"))


def test_a_target_without_test_images_is_refused(sets, tmp_path):
    one = put(tmp_path / "one", {f"train/{c}/1.png": picture(1) for c in "ab"})
    with pytest.raises(UserError, match=r"^data set \(=folder:.*one\): has no test images$"):
        duplicates(Duplicates(sets[0], one, 32))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"size": 8}, r"^size \(=8\): must be 16 pixels or more$"),
        ({"bits": 40}, r"^bits \(=40\): must be 0 to 31$"),
        ({"pool": "synthetic:2"}, r"^data set \(=synthetic:2\): must be synthetic:source or synthetic:D"),
    ],
)
def test_bad_input(fields, error):
    with pytest.raises(UserError, match=error):
        Duplicates(**{"pool": "synthetic:source", "target": "synthetic:0", "size": 24} | fields)
