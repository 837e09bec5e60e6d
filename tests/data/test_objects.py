"""Boxes: where they lie in a decoded image, what is kept of them, and the samples that tasks make of them."""

import io

import numpy as np
import pytest
import torch
from annotated_sets import drawn, drawn_target, voc
from PIL import Image
from small_world import small_world  # noqa: F401  (a fixture)

from transferlab.data import images
from transferlab.data.decoding import upright_size
from transferlab.data.images import load, shrink, target_sample
from transferlab.data.objects import chosen, front, moved, padded, presence
from transferlab.data.pinning import pin
from transferlab.errors import UserError
from transferlab.specs import Detection, ImageSet, MultiLabel, Subset, Target
from transferlab.specs.task import SingleLabel


def boxes(*rows) -> np.ndarray:
    return padded([rows])[0]


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (128, 128), (40, 1000), (1000, 40)])
def test_boxes_move_with_their_image(width, height):
    """An even box in a picture is found where it should be in the square, to a pixel."""
    left, top, right, bottom = width * 0.45, height * 0.4, width * 0.6, height * 0.62
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[round(top) : round(bottom), round(left) : round(right)] = 255
    square = shrink(Image.fromarray(pixels), 64)[..., 0] > 127
    rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
    (found,) = moved(boxes((3, round(left), round(top), round(right), round(bottom), 0)), width, height, 64)
    assert found[0] == 3
    wanted = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.abs(found[1:5] - wanted).max() <= 1


def test_what_the_crop_cuts_off():
    """Of a picture of 96 x 48 the middle half is kept: what is left of boxes that reach out, by a quarter or not."""
    given = [
        (0, 0, 0, 20, 48, 0),  # left of the crop
        (1, 4, 0, 28, 48, 0),  # a sixth is left
        (2, 8, 0, 40, 48, 0),  # half is left
        (3, 30, 8, 50, 40, 1),
        (4, 72, 0, 96, 48, 0),  # it only touches it
    ]
    found = moved(boxes(*given), 96, 48, 24)
    assert found.tolist() == [
        [1, 0, 0, 2, 24, 1],
        [2, 0, 0, 8, 24, 0],
        [3, 3, 4, 13, 20, 1],
        [-1] * 6,
        [-1] * 6,
    ]


def test_images_without_objects_have_one_empty_row():
    assert padded([(), ()]).tolist() == [[[-1] * 6]] * 2
    assert moved(padded([()])[0], 96, 48, 24).tolist() == [[-1] * 6]


def test_presence_is_not_asked_of_difficult_objects():
    three = padded([[(0, 0, 0, 1, 1, 1), (1, 0, 0, 1, 1, 0)], [], [(0, 0, 0, 1, 1, 1), (0, 2, 2, 3, 3, 0)]])
    found = presence(three, 3)
    assert found.dtype == np.float32
    assert np.array_equal(found, [[np.nan, 1, 0], [0, 0, 0], [1, 0, 0]], equal_nan=True)


def test_what_stays_is_in_front_and_in_order():
    three = padded([[(0, 0, 0, 1, 1, 0), (1, 0, 0, 1, 1, 0), (2, 0, 0, 1, 1, 0)], [(1, 0, 0, 1, 1, 0)]])
    found = front(three, three[..., 0] != 1)
    assert found[..., 0].tolist() == [[0, 2, -1], [-1, -1, -1]]


def test_classes_that_are_left_out():
    """An excluded one takes its images along; one that is not chosen leaves images that have others, or none."""
    given = padded([[(0, 0, 0, 1, 1, 0), (1, 0, 0, 1, 1, 0)], [(1, 0, 0, 1, 1, 0)], [], [(0, 0, 0, 1, 1, 0)]])
    nothing = np.zeros(2, bool)
    found, stays = chosen(given, np.array([-1, 0]), nothing)
    assert stays.tolist() == [True, True, True, False]
    assert found[..., 0].tolist() == [[0, -1], [0, -1], [-1, -1], [-1, -1]]
    assert chosen(given, np.array([-1, 0]), np.array([True, False]))[1].tolist() == [False, True, True, False]


def test_the_size_of_a_turned_picture():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(file, "JPEG", exif=exif)
    assert upright_size(file.getvalue()) == (4, 8)
    assert upright_size(b"no picture") is None


# ------------------------------------------------------------------------------------------------------------ samples


def test_samples_of_several_labels(tmp_path):
    target = drawn_target(tmp_path / "set", MultiLabel())
    parts = {split: target_sample(target, split, 0) for split in ("train", "validation", "test")}
    assert sum(len(p.rows) for p in parts.values()) == 40
    assert not {*parts["train"].rows.tolist()} & {*parts["validation"].rows.tolist()}
    for sample in parts.values():
        assert (sample.labels.dtype, sample.labels.shape) == (torch.float32, (len(sample.rows), 3))
        assert sample.names == ("ant", "bee", "cat")
        assert (sample.labels == 1).any(0).all(), "a class is missing"
        assert (sample.labels == 0).all(1).any(), "images without objects stay"


def test_samples_of_boxes_are_where_the_colour_is(tmp_path):
    target = drawn_target(tmp_path / "set", Detection(), 80, 32)
    sample = target_sample(target, "train", 0)
    assert sample.labels.shape == (len(sample.rows), 3, 6)
    looked = 0
    for row, its in zip(sample.rows, sample.labels, strict=True):
        for of, left, top, right, bottom, hard in its[its[:, 0] >= 0].tolist():
            if hard or len(its[its[:, 0] >= 0]) > 1:  # others may lie before it
                continue
            inside = sample.pixels[row, round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1]
            assert inside.float().mean((0, 1)).argmax() == of
            looked += 1
    assert looked > 5


def test_samples_are_drawn_nested_and_by_presence(tmp_path):
    whole = drawn_target(tmp_path / "set", MultiLabel(), 80)

    def rows(seed=0, **part) -> set[int]:
        return {*target_sample(Target(whole.images, 24, Subset(**part), MultiLabel()), "train", seed).rows.tolist()}

    few = target_sample(Target(whole.images, 24, Subset(per_class=4), MultiLabel()), "train", 0)
    counts = (few.labels == 1).sum(0)
    assert counts.min() == 4
    assert rows(per_class=4) < rows(per_class=8) < rows()
    assert rows(images=10) < rows(images=20)
    assert len(rows(images=20)) == 20
    assert rows(images=20) != rows(images=20, seed=1)
    with pytest.raises(UserError, match=r"per_class \(=500\): the smallest class has only \d+ images"):
        rows(per_class=500)
    with pytest.raises(UserError, match=r"images \(=500\): there are only \d+"):
        rows(images=500)


def test_one_class_can_be_detected_and_not_told_apart(tmp_path):
    part = {"subset": Subset(classes=("bee",))}
    sample = target_sample(drawn_target(tmp_path / "set", Detection(), **part), "test", 0)
    assert sample.classes == 1
    assert {*sample.labels[..., 0].flatten().tolist()} == {0, -1}
    with pytest.raises(UserError, match=r"classes \(=1\): at least two must be left"):
        target_sample(drawn_target(tmp_path / "set", MultiLabel(), **part), "test", 0)


def test_excluded_classes_are_in_no_image(tmp_path):
    whole = load(drawn_target(tmp_path / "set", MultiLabel()).images, 24).splits["train"]
    sample = target_sample(drawn_target(tmp_path / "set", MultiLabel(), subset=Subset(exclude=("cat",))), "train", 0)
    assert sample.names == ("ant", "bee")
    assert not (whole.labels[sample.rows.numpy(), :, 0] == 2).any()


def test_decoding_is_kept_and_what_is_cut_off_is_told_once(tmp_path, capsys):
    voc(tmp_path / "set", {n: [("ant", 0.0, 0.0, 6.0, 9.0), ("bee", 20.0, 9.0, 30.0, 20.0)] for n in drawn(8)})
    pin(f"folder:{tmp_path / 'set'}")
    target = drawn_target(tmp_path / "set", Detection())
    for _ in range(2):
        images._decoded.cache_clear()
        sample = target_sample(target, "train", 0)
    assert (sample.labels[..., 0] >= 0).sum(1).tolist() == [1] * len(sample.rows)
    told = capsys.readouterr().err
    assert told.count("at 24 px: 8 objects, without 8 of which the centre crop leaves nothing") == 1


def test_a_task_and_a_set_that_do_not_fit(tmp_path):
    for label in ("ant", "bee"):
        for number in range(4):
            (tmp_path / "plain" / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "plain" / label / f"{number}.png")
    name = f"folder:{tmp_path / 'plain'}"
    pin(name)
    with pytest.raises(
        UserError, match=rf"data set \(={name}\): no boxes of objects are noted; if it has some: transf"
    ):
        Target(name, 24, task=MultiLabel())
    boxed = drawn_target(tmp_path / "set", MultiLabel())
    with pytest.raises(UserError, match=r"tail \(=2.0\): is that of sets with one label an image, not of multi-label"):
        Target(boxed.images, 24, Subset(tail=2.0), MultiLabel())
    with pytest.raises(UserError, match="an image has boxes of objects, and no label; a target's task must be"):
        target_sample(Target(boxed.images, 24), "train", 0)
    assert Target(boxed.images, 24, task=SingleLabel()).task is None
    other = Target(ImageSet("synthetic:0.5"), 24)
    object.__setattr__(other, "task", MultiLabel())  # as of a set that was pinned elsewhere
    with pytest.raises(UserError, match="an image has a label, and no boxes of objects; leave the task out"):
        target_sample(other, "test", 0)


def test_boxes_are_images_without_a_task(tmp_path):
    boxed = drawn_target(tmp_path / "set", MultiLabel())
    single = Target(boxed.images.name, 24)
    assert single.images.fingerprint != boxed.images.fingerprint
    sample = target_sample(single, "train", 0)
    assert sample.labels.dtype == torch.int64
    assert len(sample.rows) > len(target_sample(boxed, "train", 0).rows)
