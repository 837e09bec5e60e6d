"""One image a class, no validation images, a class that a split lacks: nothing is chosen or scored on nothing."""

import itertools

import pytest
import torch
from flat_images import paint

from transferlab.data.images import target_sample
from transferlab.data.pinning import pin
from transferlab.data.readers import open_set
from transferlab.errors import RefusedError, UserError
from transferlab.lab import Lab
from transferlab.measure.metrics import scores
from transferlab.methods import KNN, Scratch
from transferlab.specs import AlexNet, OneOf, Recipe, Subset, Target, Trial
from transferlab.store import REFUSED

NEEDS = "has no images for validation: 2 training images of a class are needed at least, or a validation split"


def few(folder, **images: tuple[int, ...]) -> str:
    """Write and pin a set with so many images of each class in each split."""
    for split, counts in images.items():
        for label, count in enumerate(counts):
            for i in range(count):
                paint(folder / split / "abc"[label] / f"{i}.png", label)
    name = f"folder:{folder}"
    pin(name)
    return name


@pytest.mark.parametrize("rate", [OneOf(0.01, 0.03, seeds=(0,)), 0.01])
def test_one_image_a_class_is_refused_before_anything_is_trained(tmp_path, rate):
    target = Target(few(tmp_path / "set", train=(1, 1, 1), test=(2, 2, 2)), 16)
    recipe, net = Recipe(steps=1, batch=2, lr=rate, augment="none"), AlexNet((2, 2, 2, 2, 2), (2, 2))
    trials = [Trial(target, method, net, 0) for method in (Scratch(recipe), KNN("fc7"))]
    lab = Lab(tmp_path / "store", workers=1, quiet=True)
    for trial in trials:
        with pytest.raises(RefusedError, match=rf"data set \(=folder:.*\): {NEEDS}"):
            lab.run([trial])
    found = [lab.store.get(key) for key in (trials[0].searches() or trials)[0].key.split()]
    assert all(record["status"].startswith(REFUSED) and not record["metrics"] for record in found)


def test_a_class_with_one_image_gives_up_none(tmp_path):
    target = Target(few(tmp_path / "set", train=(1, 2, 5), test=(1, 1, 1)), 16)
    held = {split: target_sample(target, split, seed=0).labels for split in ("train", "validation", "test")}
    assert {s: labels.bincount().tolist() for s, labels in held.items()} == {
        "train": [1, 1, 4],
        "validation": [0, 1, 1],
        "test": [1, 1, 1],
    }
    assert scores(torch.eye(3)[held["validation"]], held["validation"])["mean_class_accuracy"] == 1.0


def test_classes_that_are_left_may_be_too_small(tmp_path):
    target = Target(few(tmp_path / "set", train=(1, 1, 5), test=(1, 1, 1)), 16, Subset(classes=("a", "b")))
    with pytest.raises(UserError, match=NEEDS):
        target_sample(target, "validation", seed=0)


def test_a_validation_split_is_enough(tmp_path):
    target = Target(few(tmp_path / "set", train=(1, 1), validation=(1, 1), test=(1, 1)), 16)
    assert [len(target_sample(target, s, 0).rows) for s in ("train", "validation", "test")] == [2, 2, 2]


def test_a_whole_set_gives_up_a_fifth_of_what_can_be_read(tmp_path):
    """Which image is damaged does not matter: the test images are drawn among those that are left."""
    for damaged in range(5):
        folder = tmp_path / str(damaged)
        for label, i in itertools.product("ab", range(5)):
            paint(folder / label / f"{i}.png", "ab".index(label))
        (folder / "a" / f"{damaged}.png").write_bytes(b"damaged")
        assert pin(f"folder:{folder}", skip_unreadable=True)["splits"] == {"train": 7, "test": 2}


def test_what_is_left_of_a_class_may_be_too_few(tmp_path):
    for label, i in itertools.product("ab", range(3)):
        paint(tmp_path / "set" / label / f"{i}.png", "ab".index(label))
    (tmp_path / "set/a/0.png").write_bytes(b"damaged")
    name = f"folder:{tmp_path}/set"
    assert pin(name, skip_unreadable=True)["splits"] == {"train": 3, "test": 2}
    assert "left out" not in open_set(name).without({"train/a/0.png"}).passed
    (tmp_path / "set/a/1.png").write_bytes(b"damaged")
    rule = r"class a has fewer than 2 images, of which one is to test on; passed over: left out 2 \((train|test)/a/"
    with pytest.raises(UserError, match=rule):
        pin(name, skip_unreadable=True)


def test_nothing_is_never_scored():
    with pytest.raises(UserError, match=r"images \(=0\): there are none to be right or wrong about"):
        scores(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
