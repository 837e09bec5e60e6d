"""Image sets, parts of them, targets, sources and weights: what tells them apart, and what is refused."""

from dataclasses import replace

import pytest

from transferlab.errors import UserError
from transferlab.specs import WHOLE, ImageSet, OneOf, Recipe, Source, Spec, Subset, Target, Weights, catalog

RECIPE = Recipe(steps=10, batch=8, lr=0.1)
SOURCE = Source("synthetic:source", 32, RECIPE)


@pytest.fixture
def photos(tmp_path):
    """The name of a folder that is pinned."""
    (tmp_path / "photos").mkdir()
    name = f"folder:{tmp_path}/photos"
    catalog.pin(name, {"fingerprint": "abc"})
    return name


def test_the_same_folder_elsewhere_is_the_same(photos):
    here, there = ImageSet(photos), ImageSet("folder:/elsewhere", "abc")
    assert here.canonical == there.canonical == '{"fingerprint":"abc","kind":"image-set","version":1}'
    assert Target(here, 32).key == Target(there, 32).key != Target(ImageSet(photos, "abd"), 32).key
    assert Spec.from_dict(Target(there, 32).to_dict()) == Target(here, 32)  # where it lies on this machine
    assert ImageSet(fingerprint="abd").name == "folder:abd"


def test_of_two_names_that_of_the_folder_that_is_there(photos):
    catalog.pin("folder:/a", {"fingerprint": "abc"})
    catalog.pin("bugs", {"fingerprint": "abc"})  # a set with a name of its own is another one
    assert ImageSet(fingerprint="abc").name == photos


def test_sets_with_names_of_their_own_are_told_apart_by_them():
    assert ImageSet("synthetic:0").key != ImageSet("synthetic:1").key
    assert Spec.from_dict(SOURCE.to_dict()) == SOURCE


def test_weights_are_known_by_their_bytes():
    (name, entry), *_ = ((n, e) for n, e in catalog.packaged().items() if n.startswith("file:"))
    weights = Weights(name)
    assert weights.to_dict() == {"kind": "weights", "fingerprint": entry["fingerprint"]}
    assert Spec.from_dict(weights.to_dict()) == weights
    assert Weights("file:/my/net.pt", "abc").key == Weights("file:net.pt", "abc").key
    named = Weights("torchvision:IMAGENET1K_V1")
    assert (named.fingerprint, Spec.from_dict(named.to_dict())) == ("IMAGENET1K_V1", named)
    with pytest.raises(UserError, match=r"weights \(=hub\): must be one of file, torchvision"):
        Weights("hub:net")


def test_labels():
    assert WHOLE.label == ""
    subset = Subset(exclude=("a", "b", "c"), classes=("d", "e"), per_class=5, lift=1, tail=10.0)
    assert subset.label == "d+e, 5 a class, tail 10, lifted 1, without 3 named"
    assert Subset(classes=7, images=30, depth=0).label == "7 classes, 30 images, depth 0"
    assert Source("synthetic:source", 32, RECIPE, Subset(classes=7), True, 0.25).label == (
        "synthetic:source, grey, 25% of its steps (7 classes)"
    )


def test_all_steps_are_no_stop():
    assert replace(SOURCE, stop=1.0) == replace(SOURCE, stop=1) == SOURCE
    assert replace(SOURCE, stop=0.5).key != SOURCE.key
    assert replace(SOURCE, stop=OneOf(0.5, 1.0)).stop.options == (0.5, 1.0)


def test_the_shape_of_a_part_has_no_number_of_images():
    assert Subset(classes=3, per_class=5, tail=2.0).shape == Subset(classes=3) == Subset(classes=3, images=9).shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(SOURCE, stop=0.0), r"stop \(=0.0\): must be a share of the steps, above 0 and at most 1"),
        (lambda: replace(SOURCE, stop=OneOf(0.5, 2.0)), r"stop \(=2.0\): must be a share"),
        (lambda: replace(SOURCE, stop="half"), r"stop \(=half\): must be a share"),
        (
            lambda: replace(SOURCE, recipe=replace(RECIPE, lr=OneOf(0.1, 0.4))),
            r"source lr \(=.*\): must be a single rate",
        ),
        (lambda: replace(SOURCE, grey=False), r"grey \(=False\): must be True or left out"),
        (lambda: Subset(tail=1.0), r"tail \(=1.0\): must be a float above 1"),
        (lambda: Subset(tail=3), r"tail \(=3\): must be a float above 1"),
        (lambda: Subset(tail=3.0, images=9), r"tail \(=3.0\): goes with per_class or all images, not with images"),
        (lambda: Subset(per_class=3, images=9), r"images \(=9\): a budget is images or per_class, not both"),
        (lambda: Target("synthetic:0", 8), r"size \(=8\): must be 16 pixels or more"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
