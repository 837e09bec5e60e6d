"""Class trees: cuts at a depth, branches, and trees that are none."""

import pytest

from transferlab.data.tree import ClassTree, source_tree
from transferlab.errors import UserError

# life
#   animal      (a class, and a node above others)
#     dog
#       poodle
#       pug
#     cat       (a leaf, above the cut at depth 3)
#   plant
#     tree
#       oak     (a chain: every node has one child)
PATHS = {
    "poodle": ("life", "animal", "dog", "poodle"),
    "pug": ("life", "animal", "dog", "pug"),
    "cat": ("life", "animal", "cat"),
    "animal": ("life", "animal"),
    "oak": ("life", "plant", "tree", "oak"),
}
TREE = ClassTree(PATHS)


@pytest.mark.parametrize(
    ("depth", "labels"),
    [
        (0, {"poodle": "life", "pug": "life", "cat": "life", "animal": "life", "oak": "life"}),
        (1, {"poodle": "animal", "pug": "animal", "cat": "animal", "animal": "animal", "oak": "plant"}),
        (2, {"poodle": "dog", "pug": "dog", "cat": "cat", "animal": "animal", "oak": "tree"}),
        (3, {"poodle": "poodle", "pug": "pug", "cat": "cat", "animal": "animal", "oak": "oak"}),
        (99, {"poodle": "poodle", "pug": "pug", "cat": "cat", "animal": "animal", "oak": "oak"}),
    ],
)
def test_a_cut_at_a_depth(depth, labels):
    assert {c: TREE.at_depth(c, depth) for c in PATHS} == labels


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        (0, {"poodle": "poodle", "pug": "pug", "cat": "cat", "animal": "animal", "oak": "oak"}),
        # parents: dog, dog, animal, life, tree; all of them lie below life
        (1, {"poodle": "life", "pug": "life", "cat": "life", "animal": "life", "oak": "life"}),
    ],
)
def test_labels_lifted_from_the_leaves(times, labels):
    assert TREE.lifted(list(PATHS), times) == labels


@pytest.mark.parametrize(
    ("leaves", "times", "labels"),
    [
        (("poodle", "pug", "oak"), 1, {"poodle": "dog", "pug": "dog", "oak": "tree"}),
        (
            ("poodle", "cat", "oak"),
            1,
            {"poodle": "animal", "cat": "animal", "oak": "tree"},
        ),  # the poodle's dog lies below the cat's animal
        (("poodle", "cat", "oak"), 2, {"poodle": "life", "cat": "life", "oak": "life"}),
        (("poodle", "oak"), 2, {"poodle": "animal", "oak": "plant"}),
        (("poodle", "oak"), 9, {"poodle": "life", "oak": "life"}),  # the root stays
    ],
)
def test_lifting_merges_only_what_is_there(leaves, times, labels):
    assert TREE.lifted(leaves, times) == labels


def test_the_source_of_the_book_is_cut_into_known_numbers_of_classes():
    tree = source_tree()
    leaves = list(tree.paths)
    cuts = [len({tree.at_depth(leaf, depth) for leaf in leaves}) for depth in range(11, 0, -1)]
    assert cuts == [200, 197, 191, 180, 160, 110, 55, 24, 11, 4, 2]
    assert [len(set(tree.lifted(leaves, times).values())) for times in (1, 2, 3)] == [7, 2, 1]


@pytest.mark.parametrize(
    ("node", "classes"),
    [
        ("life", set(PATHS)),
        ("animal", {"poodle", "pug", "cat", "animal"}),
        ("dog", {"poodle", "pug"}),
        ("tree", {"oak"}),
        ("oak", {"oak"}),
    ],
)
def test_a_branch(node, classes):
    assert TREE.under(node) == classes


def test_depth_is_that_of_the_deepest_class():
    assert TREE.depth == 3
    assert ClassTree({"root": ["root"]}).depth == 0


def test_lists_of_nodes_will_do():
    assert ClassTree({c: list(path) for c, path in PATHS.items()}).paths == PATHS


def test_no_such_branch():
    with pytest.raises(UserError, match=r"class \(=poodel\): no such class or node; did you mean poodle\?"):
        TREE.under("poodel")


def test_a_class_that_the_tree_misses():
    TREE.covers(tuple(PATHS))
    TREE.covers(())
    with pytest.raises(UserError, match=r"class tree \(=wolf\): the tree misses this class"):
        TREE.covers(("cat", "wolf", "fox"))
    with pytest.raises(UserError, match=r"class tree \(=dog\): the tree misses this class"):
        TREE.covers(("dog",))  # an inner node without images of its own


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ({"a": []}, r"\(=a\): its path must end with the class itself"),
        ({"a": ["root", "b"]}, r"\(=a\): its path must end with the class itself"),
        ({"a": ["root", "b", "root", "a"]}, r"\(=a\): its path visits a node twice \(a cycle\)"),
        (
            {"a": ["root", "a"], "b": ["root", "a", "b"], "c": ["root", "b", "a", "c"]},
            r"\(=b\): has two parents, a and root",
        ),
        ({"a": ["root", "n", "a"], "b": ["root", "m", "n", "b"]}, r"\(=n\): has two parents, root and m"),
        ({"a": ["root", "a"], "b": ["stump", "b"]}, r"\(=roots\): must have a single root"),
        ({"a": ["root", "a"], "root": ["b", "root"], "b": ["b"]}, r"\(=root\): has two parents, None and b"),
    ],
    ids=[
        "empty path",
        "ends elsewhere",
        "cycle",
        "cycle over two paths",
        "two parents",
        "two roots",
        "a root below another",
    ],
)
def test_what_is_no_tree(paths, message):
    with pytest.raises(UserError, match=f"class tree {message}"):
        ClassTree(paths)
