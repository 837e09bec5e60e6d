"""Classes that source and target share: the committed table against the tree and the sets' own class names."""

import pytest

from transferlab.data.overlap import overlap, table
from transferlab.data.subsets import relabel
from transferlab.data.tree import source_tree
from transferlab.specs import Subset

TREE = source_tree()
LEAVES = sorted(TREE.paths)
WORDS = TREE.words


@pytest.mark.parametrize(
    ("target", "left"), [("caltech101", 181), ("cifar100", 159), ("flowers102", 200), ("scene15", 200)]
)
def test_classes_left_without_those_of_a_target(target, left):
    assert len(relabel(LEAVES, Subset(exclude=overlap(target) or None), 0, TREE).names) == left


@pytest.mark.parametrize("target", list(table()))
def test_every_node_is_in_the_tree_and_every_class_once(target):
    for nodes in table()[target].values():
        assert set(nodes) <= TREE.parent.keys()
    assert list(table()[target]) == sorted(table()[target])


def test_a_node_takes_all_below_it():
    """Exclusion is by the tree: the car's node is no class, and takes four classes with it."""
    (car,) = table()["caltech101"]["car_side"]
    assert WORDS[car] == "car"
    assert {WORDS[leaf] for leaf in TREE.under(car)} == {"beach wagon", "convertible", "limousine", "sports car"}
    left = relabel(LEAVES, Subset(exclude=overlap("caltech101")), 0, TREE).names
    assert not set(left) & TREE.under(car)


def test_words_alone_would_have_missed_or_taken_others():
    """What a comparison of strings would not find, and what it would take by mistake."""
    gone = set(LEAVES) - set(relabel(LEAVES, Subset(exclude=overlap("cifar100")), 0, TREE).names)
    assert {"viaduct", "boa constrictor", "ox", "alp", "bell pepper"} <= {WORDS[leaf] for leaf in gone}
    assert not {"sea slug", "birdhouse", "spider web", "guinea pig"} & {WORDS[leaf] for leaf in gone}
