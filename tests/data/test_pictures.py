"""Pictures of image sets as a page holds them."""

import base64
import io

import numpy as np
from parquet_sets import rows, write_set
from PIL import Image

from transferlab.data.images import load
from transferlab.data.pictures import address, pictures
from transferlab.data.pinning import pin
from transferlab.paths import data_root
from transferlab.specs import ImageSet


def pixels_of(url: str) -> np.ndarray:
    kind, _, data = url.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_picture_is_in_its_address():
    shades = np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(3, 2)
    found = pixels_of(address(Image.fromarray(shades)))
    assert found.shape == (32, 32, 3)
    assert np.abs(found.astype(int) - shades).max() < 16


def test_rows_are_those_of_the_decoded_split():
    write_set(data_root() / "bugs", train=rows(4), test=rows(1))
    pin("bugs")
    decoded = load(ImageSet("bugs"), 16).splits["train"].pixels
    found = pictures("bugs", [11, 0, 5, 5], 16)
    assert sorted(found) == [0, 5, 11]
    for row, url in found.items():
        assert np.abs(pixels_of(url).astype(int) - decoded[row].numpy()).max() < 16
    assert len({found[0], found[5], found[11]}) == 3


def test_a_set_that_is_not_here_has_none():
    assert pictures("bugs", [0], 16) == {}


def test_the_drawn_world_is_drawn():
    """Near to its pixels, which the address holds with losses."""
    found, images = pictures("synthetic:0.6", [5, 0, 5], 16, "test"), load(ImageSet("synthetic:0.6"), 16)
    assert found.keys() == {0, 5}
    for row, url in found.items():
        assert np.abs(pixels_of(url).astype(int) - images.splits["test"].pixels[row].numpy()).mean() < 12
    assert found[0] != found[5]
