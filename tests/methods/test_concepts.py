"""Coarse concepts: known answers on predictions and features that are laid out by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from transferlab.data.images import load
from transferlab.data.subsets import relabel
from transferlab.errors import UserError
from transferlab.methods import concepts
from transferlab.scales import scale
from transferlab.specs import Concepts, Source, Subset, Trial

S = scale("smoke")
SOURCE = S.source_of(classes=12)
TRIAL = replace(Trial.of_source(SOURCE, S.backbone, 0), method=Concepts())
CPU = torch.device("cpu")


def groups(features: torch.Tensor, logits: torch.Tensor) -> dict[str, list]:
    """What is measured of a network that has these features and logits for an image of each class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concepts, "features", lambda net, sample, taps: {taps[0]: features[sample.labels]})
        patch.setattr(concepts, "predict", lambda net, sample: logits[sample.labels])
        return {node: rest for node, *rest in concepts.run(TRIAL, nn.Identity(), CPU)["groups"]}


def members(node: str) -> list[str]:
    below = load(SOURCE.images, SOURCE.size).tree.under(node)
    return [c for c in classes() if c in below]


def classes() -> list[str]:
    data = load(SOURCE.images, SOURCE.size)
    return list(relabel(data.classes, SOURCE.subset, 0, data.tree).names)


def test_a_network_that_is_always_right():
    found = groups(torch.eye(12), torch.eye(12))
    assert found
    for node, (size, coarse, fine, alike, *others) in found.items():
        assert size == len(members(node))
        assert (coarse, fine, alike) == (1, 1, 0)
        assert others == [1, 1, 0]


def test_a_network_that_mistakes_a_class_for_the_next():
    """Coarse accuracy counts the members whose follower is a member; none is right."""
    found = groups(torch.ones(12, 3), torch.eye(12).roll(1, 1))
    names = classes()
    for node, (size, coarse, fine, alike, *_) in found.items():
        inside = [names[(names.index(c) + 1) % 12] in members(node) for c in members(node)]
        assert coarse == pytest.approx(sum(inside) / size, abs=1e-4)
        assert (fine, alike) == (0, 1)


def test_likeness_is_the_cosine_of_mean_features():
    angles = torch.arange(12) * 0.1
    found = groups(torch.stack([angles.cos(), angles.sin()], 1), torch.eye(12))
    for node, (size, _, _, alike, *_) in found.items():
        at = [0.1 * classes().index(c) for c in members(node)]
        pairs = [torch.tensor(a - b).cos().item() for a in at for b in at if a != b]
        assert alike == pytest.approx(sum(pairs) / (size * (size - 1)), abs=1e-4)


def test_nodes_of_one_class_or_of_all_are_left_out():
    sizes = [size for size, *_ in groups(torch.eye(12), torch.eye(12)).values()]
    assert min(sizes) > 1
    assert max(sizes) < 12


def test_a_target_without_a_tree_is_refused(tmp_path):
    source = Source("cifar100", 32, SOURCE.recipe, Subset())
    trial = replace(Trial.of_source(source, S.backbone, 0), method=Concepts())
    bare = load(SOURCE.images, SOURCE.size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concepts, "load", lambda images, size: replace(bare, tree=None))
        with pytest.raises(UserError, match=r"target \(=cifar100\): has no class tree"):
            concepts.run(trial, nn.Identity(), CPU)
