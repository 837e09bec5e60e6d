"""The committed lists of names: how many, how balanced, nothing twice, and the same as what is published."""

from collections import Counter

import pytest
import rebuild_sets

from transferlab.data.pinning import names_digest
from transferlab.data.tree import class_tree
from transferlab.specs import catalog

COUNTS = {  # images by split, and how many a class has
    "caltech101": ({"train": 2914, "test": 2056}, {"train": (21, 30), "test": (10, 30)}),
    "cifar100": ({"train": 2500, "test": 2500}, {"train": (25, 25), "test": (25, 25)}),
    "mnist": ({"train": 2500, "test": 2500}, {"train": (250, 250), "test": (250, 250)}),
    "pacs/photo": ({"train": 420, "test": 420}, {"train": (60, 60), "test": (60, 60)}),
    "pacs/art_painting": ({"train": 420, "test": 420}, {"train": (60, 60), "test": (60, 60)}),
    "pacs/cartoon": ({"train": 420, "test": 420}, {"train": (60, 60), "test": (60, 60)}),
    "pacs/sketch": ({"train": 400, "test": 400}, {"train": (40, 60), "test": (40, 60)}),
    "scene15": ({"train": 900, "test": 900}, {"train": (60, 60), "test": (60, 60)}),
}


@pytest.mark.parametrize("name", [*COUNTS, "voc2007"])
def test_packaged_list(name):
    splits = rebuild_sets.listed(name)
    everything = [path for names in splits.values() for path in names]
    assert len(set(everything)) == len(everything)
    if name == "voc2007":
        assert {s: len(names) for s, names in splits.items()} == {"train": 2476, "test": 2476}
        assert all(len(stem) == 6 and stem.isdigit() for stem in everything)
        return
    counts, balance = COUNTS[name]
    assert {s: len(names) for s, names in splits.items()} == counts == catalog.packaged()[name]["splits"]
    for split, names in splits.items():
        classes = Counter(path.split("/")[0] for path in names)
        assert len(classes) == catalog.packaged()[name]["classes"]
        assert (min(classes.values()), max(classes.values())) == balance[split]


def test_packaged_tree():
    tree = class_tree()
    assert len(tree) == 200
    assert len({node["wnid"] for entry in tree.values() for node in entry["path"]}) == 295
    assert {entry["path"][0]["name"] for entry in tree.values()} == {"physical_entity"}
    assert tree["n01443537"]["name"] == "goldfish, Carassius auratus"
    assert [node["name"] for node in tree["n01443537"]["path"][-2:]] == ["vertebrate", "goldfish"]


@pytest.mark.parametrize("name", COUNTS)
def test_lists_say_what_is_published(name):
    assert names_digest(rebuild_sets.listed(name)) == catalog.packaged()[name]["names"]


def test_lists_are_small():
    assert sum(f.stat().st_size for f in rebuild_sets.LISTS.iterdir()) < 600_000
