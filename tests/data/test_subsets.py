"""Parts of sets: draws that are nested and depend on nothing else, classes left out, chosen and merged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferlab.data import subsets
from transferlab.data.subsets import hold_out, in_turn, rank, relabel
from transferlab.data.tree import ClassTree
from transferlab.errors import UserError
from transferlab.specs import Subset

CLASSES = ("poodle", "pug", "cat", "animal", "oak")
TREE = ClassTree(
    {
        "poodle": ("life", "animal", "dog", "poodle"),
        "pug": ("life", "animal", "dog", "pug"),
        "cat": ("life", "animal", "cat"),
        "animal": ("life", "animal"),
        "oak": ("life", "plant", "tree", "oak"),
    }
)
MANY = tuple(f"class{i}" for i in range(100))

seeds = st.integers(0, 5)
labelled = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


def names(count: int) -> list[str]:
    return [f"image{i}" for i in range(count)]


# -------------------------------------------------------------------------------------------------------- classes


def subset(seed: int = 0, tree: ClassTree | None = TREE, classes=CLASSES, **what) -> dict[str, list[str]]:
    """The new classes, and which old ones went into each; checks that the mapping says the same."""
    got = relabel(classes, Subset(**what), seed, tree)
    assert got.mapping.shape == (len(classes),)
    assert got.mapping.dtype == np.int64
    return {name: [c for c, m in zip(classes, got.mapping, strict=True) if m == i] for i, name in enumerate(got.names)}


def test_everything_is_kept_by_default():
    assert subset() == subset(tree=None) == {c: [c] for c in CLASSES}


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (("cat",), ["poodle", "pug", "animal", "oak"]),
        (("dog",), ["cat", "animal", "oak"]),
        (("plant",), ["poodle", "pug", "cat", "animal"]),
        (("dog", "oak"), ["cat", "animal"]),
        (("dog", "pug", "dog"), ["cat", "animal", "oak"]),
    ],
)
def test_classes_and_branches_are_left_out(exclude, left):
    assert list(subset(exclude=exclude)) == left


def test_classes_are_left_out_without_a_tree():
    assert list(subset(tree=None, exclude=("pug", "oak"))) == ["poodle", "cat", "animal"]


def test_chosen_classes_keep_the_order_in_which_they_were_named():
    assert subset(classes=CLASSES) == subset()
    got = relabel(CLASSES, Subset(classes=("oak", "cat")), 0, None)
    assert got.names == ("oak", "cat")
    assert got.mapping.tolist() == [-1, -1, 1, -1, 0]


def chosen(*classes: str, exclude: tuple[str, ...] | None = None) -> list[str]:
    return list(relabel(CLASSES, Subset(classes=classes, exclude=exclude), 0, TREE).names)


def test_an_inner_node_stands_for_the_classes_below_it():
    assert chosen("dog", "oak") == ["poodle", "pug", "oak"]
    assert chosen("dog", "cat", exclude=("pug",)) == ["poodle", "cat"]
    assert chosen("animal", "cat") == ["animal", "cat"]  # a class that is also an inner node is itself
    assert chosen("dog", "pug", "cat") == ["poodle", "pug", "cat"]  # what is named twice counts once


def test_an_unknown_class_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match=r"class \(=plnt\): not in this set; did you mean plant\?"):
        chosen("plnt", "cat")


def test_labels_are_lifted():
    named = Subset(classes=("poodle", "pug", "oak"), lift=1)
    got = relabel(CLASSES, named, 0, TREE)
    assert (got.names, got.mapping.tolist()) == (("dog", "tree"), [0, 0, -1, -1, 1])
    with pytest.raises(UserError, match=r"lift \(=1\): this set has no class tree"):
        relabel(CLASSES, named, 0, None)


def test_drawn_classes_keep_the_order_of_the_set_and_are_nested():
    drawn = {n: relabel(MANY, Subset(classes=n), 0, None).names for n in (2, 10, 50, 100)}
    for n, chosen in drawn.items():
        assert len(chosen) == n
        assert list(chosen) == [c for c in MANY if c in chosen]
    assert set(drawn[2]) < set(drawn[10]) < set(drawn[50]) < set(drawn[100])
    assert relabel(MANY, Subset(classes=10), 1, None).names != drawn[10]


def test_a_draw_of_classes_does_not_depend_on_their_order_or_on_the_others():
    drawn = relabel(MANY, Subset(classes=10), 0, None).names
    assert set(relabel(MANY[::-1], Subset(classes=10), 0, None).names) == set(drawn)
    gone = next(c for c in MANY if c not in drawn)
    assert relabel(MANY, Subset(exclude=(gone,), classes=10), 0, None).names == drawn


def test_exclusion_comes_before_the_draw():
    drawn = relabel(MANY, Subset(classes=10), 0, None).names
    instead = relabel(MANY, Subset(exclude=drawn[:1], classes=10), 0, None).names
    assert len(instead) == 10
    assert set(drawn[1:]) < set(instead)


@pytest.mark.parametrize(
    ("depth", "merged"),
    [
        (1, {"animal": ["poodle", "pug", "cat", "animal"], "plant": ["oak"]}),
        (2, {"dog": ["poodle", "pug"], "cat": ["cat"], "animal": ["animal"], "tree": ["oak"]}),
        (3, {c: [c] for c in CLASSES}),
        (9, {c: [c] for c in CLASSES}),
    ],
)
def test_coarse_labels(depth, merged):
    assert subset(depth=depth) == merged


def test_coarse_labels_of_what_is_left():
    assert subset(exclude=("cat",), depth=2) == {"dog": ["poodle", "pug"], "animal": ["animal"], "tree": ["oak"]}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"exclude": ("pugg",)}, r"class \(=pugg\): no such class or node; did you mean pug\?"),
        ({"classes": ("cat", "oack")}, r"class \(=oack\): not in this set; did you mean oak\?"),
        ({"exclude": ("oak",), "classes": ("cat", "oak")}, r"class \(=oak\): not in this set$"),
        ({"classes": 6}, r"classes \(=6\): there are only 5"),
        ({"exclude": ("dog",), "classes": 4}, r"classes \(=4\): there are only 3"),
        ({"exclude": ("animal",)}, r"classes \(=1\): at least two must be left"),
        ({"exclude": ("life",)}, r"classes \(=0\): at least two must be left"),
        ({"classes": ("cat",)}, r"classes \(=1\): at least two must be left"),
        ({"classes": ("cat", "cat")}, r"classes \(=1\): at least two must be left"),
        ({"depth": 0}, r"classes \(=1\): at least two must be left"),
    ],
)
def test_parts_that_there_are_not(what, message):
    with pytest.raises(UserError, match=message):
        relabel(CLASSES, Subset(**what), 0, TREE)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"depth": 1}, r"depth \(=1\): this set has no class tree"),
        ({"exclude": ("dog",)}, r"class \(=dog\): not in this set, and the set has no class tree"),
        ({"exclude": ("poodel",)}, r"class \(=poodel\): .*; did you mean poodle\?"),
    ],
)
def test_a_tree_that_is_needed_and_missing(what, message):
    with pytest.raises(UserError, match=message):
        relabel(CLASSES, Subset(**what), 0, None)


def test_a_tree_of_other_classes():
    with pytest.raises(UserError, match=r"class tree \(=wolf\): the tree misses this class"):
        relabel((*CLASSES, "wolf"), Subset(depth=1), 0, TREE)


# ---------------------------------------------------------------------------------------------------------- draws


def draw(labels, names, per_class, seed, images=None, tail=None, classes=()):
    return subsets.draw(labels, names, Subset(per_class=per_class, images=images, tail=tail), seed, classes)


def test_all_images():
    assert draw(np.array([1, -1, 0, 1]), names(4), None, 0).tolist() == [0, 2, 3]


def test_more_images_than_the_smallest_class_has():
    with pytest.raises(UserError, match=r"per_class \(=3\): the smallest class has only 2 images"):
        draw(np.array([0, 0, 0, 1, 1]), names(5), 3, 0)


def test_no_images_at_all():
    assert draw(np.array([-1, -1]), names(2), None, 0).tolist() == []
    with pytest.raises(UserError, match=r"per_class \(=1\): the smallest class has only 0 images"):
        draw(np.array([-1, -1]), names(2), 1, 0)


@given(labels=labelled, seed=seeds, images=st.integers(1, 60))
def test_a_budget_is_met_to_the_image_and_spread_evenly(labels, seed, images):
    sizes = np.unique(labels, return_counts=True)[1]
    if not len(sizes) <= images <= sizes.min() * len(sizes):
        with pytest.raises(UserError, match=r"images .*: spread over"):
            draw(labels, names(len(labels)), None, seed, images)
        return
    drawn = draw(labels, names(len(labels)), None, seed, images)
    counts = np.unique(labels[drawn], return_counts=True)[1]
    assert len(set(drawn)) == counts.sum() == images
    assert counts.max() - counts.min() <= 1
    assert set(draw(labels, names(len(labels)), int(counts.min()), seed)) <= set(drawn)


@given(st.integers(2, 6), st.integers(1, 40), st.floats(1.01, 100.0), seeds)
def test_a_long_tail(count, most, tail, seed):
    labels, classes = np.repeat(np.arange(count), 40), MANY[:count]
    drawn = draw(labels, names(len(labels)), most, seed, tail=tail, classes=classes)
    sizes = np.bincount(labels[drawn], minlength=count)
    assert sorted(sizes, reverse=True) == [max(1, round(most * tail ** (-i / (count - 1)))) for i in range(count)]
    assert set(drawn) <= set(draw(labels, names(len(labels)), most, seed))
    assert set(drawn) <= set(draw(labels, names(len(labels)), min(40, most + 3), seed, tail=tail, classes=classes))
    assert set(drawn) <= set(draw(labels, names(len(labels)), most, seed, tail=1 + (tail - 1) / 2, classes=classes))


def test_a_long_tail_of_all_images_starts_at_what_every_class_has():
    labels = np.repeat([0, 1, 2], [30, 20, 25])
    sizes = {
        seed: np.bincount(labels[draw(labels, names(75), None, seed, tail=4.0, classes=MANY)]).tolist()
        for seed in range(20)
    }
    assert {tuple(sorted(found)) for found in sizes.values()} == {(5, 10, 20)}
    assert len({tuple(found) for found in sizes.values()}) == 6  # the seed draws the order
    with pytest.raises(UserError, match=r"per_class \(=21\): the smallest class has only 20 images"):
        draw(labels, names(75), 21, 0, tail=4.0, classes=MANY)


def test_a_known_draw():
    """Published records rest on these draws: they must never change."""
    labels = np.repeat([0, 1], 10)
    assert draw(labels, names(20), 3, 0).tolist() == [3, 7, 8, 12, 17, 19]
    assert np.flatnonzero(hold_out(labels, names(20), 0)).tolist() == [4, 8, 11, 19]
    tail = draw(np.repeat(range(3), 10), names(30), 8, 0, tail=8.0, classes=MANY)
    assert np.bincount(np.repeat(range(3), 10)[tail]).tolist() == [3, 1, 8]
    assert relabel(MANY, Subset(classes=4), 0, None).names == ("class10", "class47", "class51", "class53")


@given(labelled, st.integers(1, 5), seeds)
def test_draws_are_balanced_sorted_and_nested(labels, most, seed):
    most = min(most, *np.bincount(labels)[np.unique(labels)])
    before: set[int] = set()
    for per_class in range(1, most + 1):
        drawn = draw(labels, names(len(labels)), per_class, seed)
        assert (np.diff(drawn) > 0).all()
        assert drawn.dtype == np.int64
        assert set(np.bincount(labels[drawn])) <= {0, per_class}
        assert set(labels[drawn]) == set(labels)
        assert before < set(drawn.tolist())
        before = set(drawn.tolist())


@given(labelled, seeds)
def test_what_is_not_eligible_is_never_drawn(labels, seed):
    eligible = np.where(labels < 2, labels, -1)
    for per_class in (None, 1) if (labels < 2).any() else (None,):
        assert (labels[draw(eligible, names(len(labels)), per_class, seed)] < 2).all()


@given(labelled, st.randoms(use_true_random=False), seeds)
def test_draws_do_not_depend_on_the_order_of_files(labels, random, seed):
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = [names(len(labels))[i] for i in order]
    drawn = {names(len(labels))[i] for i in draw(labels, names(len(labels)), 1, seed)}
    assert {shuffled[i] for i in draw(labels[order], shuffled, 1, seed)} == drawn
    held = {names(len(labels))[i] for i in np.flatnonzero(hold_out(labels, names(len(labels)), seed))}
    assert {shuffled[i] for i in np.flatnonzero(hold_out(labels[order], shuffled, seed))} == held


@given(labelled, seeds)
def test_draws_do_not_depend_on_other_classes(labels, seed):
    drawn = draw(labels, names(len(labels)), 1, seed)
    alone = np.where(labels == labels[0], labels, -1)
    assert set(draw(alone, names(len(labels)), 1, seed)) == {i for i in drawn if labels[i] == labels[0]}


@given(labelled, seeds)
def test_draws_do_not_depend_on_images_that_were_not_drawn(labels, seed):
    drawn = draw(labels, names(len(labels)), 1, seed)
    fewer = np.where(np.arange(len(labels)) % 2 == 0, labels, -1)
    fewer[drawn] = labels[drawn]
    assert draw(fewer, names(len(labels)), 1, seed).tolist() == drawn.tolist()


@given(labelled, seeds)
def test_hold_out_leaves_some_and_takes_some(labels, seed):
    held = hold_out(labels, names(len(labels)), seed)
    assert (held.shape, held.dtype) == (labels.shape, bool)
    for c in np.unique(labels):
        size, taken = (labels == c).sum(), held[labels == c].sum()
        assert taken == (0 if size == 1 else min(max(1, round(0.2 * size)), size - 1))


def test_hold_out_of_nothing():
    assert hold_out(np.array([], dtype=int), [], 0).tolist() == []


def test_hold_out_depends_on_seed_and_purpose():
    labels = np.repeat([0, 1], 20)
    made = [
        hold_out(labels, names(40), seed, purpose=purpose)
        for seed, purpose in ((0, "validation"), (1, "validation"), (0, "test"))
    ]
    assert {held.sum() for held in made} == {8}
    assert len({held.tobytes() for held in made}) == 3


def test_ranks_differ_in_every_argument():
    assert (
        len({rank(seed, purpose, name) for seed in (0, 1) for purpose in ("image", "class") for name in ("a", "b")})
        == 8
    )


# ------------------------------------------------------------------------------------------------- several labels


def present(count: int, seed: int = 0) -> np.ndarray:
    """Which of five classes images have, each rarer than the one before; some have none."""
    return (np.random.default_rng(seed).random((count, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]).astype(int)


@given(st.integers(2, 60), seeds)
def test_some_images_of_a_class_always_stay(count, seed):
    """And never all of a class."""
    has = present(count, seed).astype(bool)
    held = hold_out(has, names(count), seed)
    strata = np.c_[has, ~has.any(1)]
    sizes, taken = strata.sum(0), strata[held].sum(0)
    assert not (taken == sizes)[sizes > 0].any()
    assert (hold_out(has, names(count), seed) == held).all()


def test_shares_of_several_labels_are_even():
    has = present(2000).astype(bool)
    held = hold_out(has, names(2000), 3)
    assert np.abs(has[held].sum(0) / has.sum(0) - 0.2).max() < 0.01
    assert (hold_out(has, names(2000), 4) != held).any()
    assert (hold_out(has, names(2000), 3, "test") != held).any()


@given(st.integers(1, 60), seeds)
def test_any_beginning_is_as_even_as_can_be(count, seed):
    """The next image is of a class that has come up least, of those that have one left."""
    has = present(count, seed)
    order = in_turn(has, names(count), seed)
    assert sorted(order) == list(range(count))
    strata = np.c_[has, has.sum(1) == 0].astype(int)
    before = np.cumsum(strata[order], 0) - strata[order]
    for had, image in zip(before, order, strict=True):
        left = strata.sum(0) > had
        assert (strata[image].astype(bool) & left & (had == had[left].min())).any()


def test_draws_of_several_labels_are_these():
    """Another order would be another sample under an old key."""
    has = present(12)
    assert in_turn(has, names(12), 0).tolist() == [0, 8, 3, 6, 1, 2, 7, 10, 5, 9, 4, 11]
    assert np.flatnonzero(hold_out(has.astype(bool), names(12), 0)).tolist() == [0, 8, 11]


@given(st.integers(30, 60), seeds)
def test_images_that_may_not_be_drawn_are_not(count, seed):
    has = present(count, seed)
    has[:, 0] = 1
    has[::2] = -1
    for part in (Subset(), Subset(images=10), Subset(per_class=1)):
        if part.per_class and not has.max(0).min():
            continue  # of some class there is none
        found = subsets.draw(has, names(count), part, seed, MANY[:5])
        assert (found % 2 == 1).all()
        assert (np.diff(found) > 0).all()
