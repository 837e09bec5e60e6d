"""Splits: what looks alike stays on one side, also in chains, and nothing is left out unsaid."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sets import draw, picture

from transferlab.data.images import target_sample
from transferlab.data.subsets import hold_out
from transferlab.errors import UserError
from transferlab.own.arranged import alike, arranged, hold_out_groups, open_any
from transferlab.specs import ImageSet, Target, catalog


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=8, max_size=60),
    st.integers(0, 3),
    st.sampled_from([1, 2]),
)
def test_groups_are_never_parted(images, seed, left):
    labels = np.unique([label for label, _ in images], return_inverse=True)[1]
    groups, names = np.array([group for _, group in images]), [f"{i}.png" for i in range(len(images))]
    counts = np.bincount(labels)
    if counts.min() <= left:
        return
    held, mixed = hold_out_groups(labels, names, groups, seed, "test", left)
    for c, count in enumerate(counts):
        assert left <= (~held)[labels == c].sum() < count
    kept_apart = ~np.isin(labels, mixed)
    assert not set(groups[held & kept_apart]) & set(groups[~held & kept_apart])


def test_without_copies_it_is_the_usual_draw():
    labels, names = np.repeat([0, 1], [10, 7]), [f"{i}.png" for i in range(17)]
    held, mixed = hold_out_groups(labels, names, np.arange(17), 3, "validation")
    assert held.tolist() == hold_out(labels, names, 3).tolist()
    assert mixed == []


def test_near_hashes_are_one_group_in_chains():
    bits = lambda *on: sum(1 << i for i in on)  # noqa: E731
    hashes = [bits(), bits(*range(4)), bits(*range(8)), bits(*range(20, 40)), bits()]
    a, b, c, d, e = alike(hashes)
    assert a == b == c == e != d


def test_copies_stand_on_one_side(tmp_path):
    folder = draw(tmp_path / "set", {"a": 12, "b": 12})
    for number in range(6):
        picture(0, number).point(lambda v: min(255, v + 2)).save(folder / "a" / f"{number:03d} brighter.png")
        shutil.copy(folder / "b" / f"{number:03d}.png", folder / "b" / f"{number:03d} (1).png")
    for seed in range(4):
        found = arranged(open_any(folder)[0], seed)
        where = {item.path: split for split, items in found.splits.items() for item in items}
        assert len(where) == 36
        assert set(where.values()) == {"train", "validation", "test"}
        for path, split in where.items():
            original = path.replace(" brighter", "").replace(" (1)", "")
            assert where[original] == split
        assert found.notes == []
    first = arranged(open_any(folder)[0], 0)
    assert first.name == arranged(open_any(folder)[0], 0).name != found.name


def test_copies_in_splits_that_are_given_are_told(tmp_path):
    folder = draw(tmp_path / "set", {"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    shutil.copy(folder / "train" / "a" / "000.png", folder / "test" / "a" / "x.png")
    found = arranged(open_any(folder)[0], 0)
    assert {s: len(items) for s, items in found.splits.items()} == {"train": 10, "validation": 2, "test": 5}
    assert found.notes == ["1 test images look like other images (a/x.png): new ones are harder"]


def test_a_class_of_copies_alone_is_told(tmp_path):
    folder = draw(tmp_path / "set", {"a": 8, "b": 8})
    for number in range(1, 8):
        shutil.copy(folder / "a" / "000.png", folder / "a" / f"{number:03d}.png")
    found = arranged(open_any(folder)[0], 0)
    assert [n.partition(" look")[0] for n in found.notes] == ["images of a", "images of a", "2 test images"]
    assert {s: sum(i.label == 0 for i in items) for s, items in found.splits.items()} == {
        "train": 5,
        "validation": 1,
        "test": 2,
    }


def test_rare_classes_are_drawn_more_often(tmp_path):
    folder = draw(tmp_path / "set", {"a": 50, "b": 10, "c": 20})
    found = arranged(open_any(folder)[0], 0)
    assert found.balanced
    assert found.notes == ["classes have 6 to 32 training images: those of rare ones are drawn more often"]
    target = Target(ImageSet(found.name, catalog.pinned(found.name)["fingerprint"]), 16)
    train = target_sample(target, "train", 0)
    assert np.bincount(train.labels).tolist() == [32, 30, 26]
    assert [len(found.splits[s]) for s in ("train", "validation", "test")] == [51, 13, 16]


def test_what_is_left_out_is_told(tmp_path):
    folder = draw(tmp_path / "set", {"a": 6, "b": 6})
    (folder / "a" / "x.png").write_bytes(b"no image")
    (folder / "a" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"1 unreadable image \(train/a/x.png\)"):
        arranged(open_any(folder)[0], 0)
    notes = arranged(open_any(folder)[0], 0, skip_unreadable=True).notes
    assert notes[0] == "passed over: other suffixes 1 (a/notes.txt)"
    assert notes[1].startswith("1 unreadable images left out")
