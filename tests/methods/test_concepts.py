"""Coarse concepts: known answers on predictions and features that are laid out by hand."""

from dataclasses import replace

import pytest
import torch
from small_world import run, small_world  # noqa: F401  (a fixture for the whole module)

from transferlab.data import images
from transferlab.data.images import load
from transferlab.data.subsets import relabel
from transferlab.errors import UserError
from transferlab.measure import metrics
from transferlab.methods import Concepts
from transferlab.nets.build import build
from transferlab.specs import AlexNet, Recipe, Source, Subset, Trial
from transferlab.train import read

BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, Recipe(steps=1, batch=8, lr=0.1), Subset(classes=12))
TRIAL = Trial.of_source(SOURCE, Concepts(), BACKBONE, 0)


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A function: what is measured of a network that has these features and logits for an image of each class."""

    def found(features: torch.Tensor, logits: torch.Tensor) -> dict[str, list]:
        monkeypatch.setattr(read, "read", lambda net, sample, taps: {taps[0]: features[sample.labels]})
        for module in (read, metrics):
            monkeypatch.setattr(module, "predict", lambda net, sample: logits[sample.labels])
        measured = run(tmp_path, TRIAL, build(BACKBONE, 24, 12, 0))
        assert measured["accuracy"] == (logits.argmax(1) == torch.arange(12)).float().mean()
        return {node: rest for node, *rest in measured["groups"]}

    return found


def members(node: str) -> list[str]:
    below = load(SOURCE.images, SOURCE.size).tree.under(node)
    return [c for c in classes() if c in below]


def classes() -> list[str]:
    data = load(SOURCE.images, SOURCE.size)
    return list(relabel(data.classes, SOURCE.subset, 0, data.tree).names)


def test_a_network_that_is_always_right(groups):
    found = groups(torch.eye(12), torch.eye(12))
    assert found
    for node, (size, coarse, fine, alike, *others) in found.items():
        assert size == len(members(node))
        assert (coarse, fine, alike) == (1, 1, 0)
        assert others == [1, 1, 0]


def test_a_network_that_mistakes_a_class_for_the_next(groups):
    """Coarse accuracy counts the members whose follower is a member; none is right."""
    found = groups(torch.ones(12, 3), torch.eye(12).roll(1, 1))
    names = classes()
    for node, (size, coarse, fine, alike, *_) in found.items():
        inside = [names[(names.index(c) + 1) % 12] in members(node) for c in members(node)]
        assert coarse == pytest.approx(sum(inside) / size, abs=1e-4)
        assert (fine, alike) == (0, 1)


def test_likeness_is_the_cosine_of_mean_features(groups):
    angles = torch.arange(12) * 0.1
    found = groups(torch.stack([angles.cos(), angles.sin()], 1), torch.eye(12))
    for node, (size, _, _, alike, *_) in found.items():
        at = [0.1 * classes().index(c) for c in members(node)]
        pairs = [torch.tensor(a - b).cos().item() for a in at for b in at if a != b]
        assert alike == pytest.approx(sum(pairs) / (size * (size - 1)), abs=1e-4)


def test_nodes_of_one_class_or_of_all_are_left_out(groups):
    sizes = [size for size, *_ in groups(torch.eye(12), torch.eye(12)).values()]
    assert min(sizes) > 1
    assert max(sizes) < 12


def test_a_target_without_a_tree_is_refused(tmp_path, monkeypatch):
    whole = load(SOURCE.images, SOURCE.size)
    monkeypatch.setattr(images, "load", lambda name, size: images.Decoded(whole.classes, None, whole.splits))
    with pytest.raises(UserError, match=r"target \(=synthetic:source \(12 classes\)\): has no class tree"):
        run(tmp_path, TRIAL, build(BACKBONE, 24, 12, 0))


def test_a_source_is_asked_of_its_own_images():
    other = replace(TRIAL.target, subset=Subset(classes=11))
    rule = r"target \(=synthetic:source \(11 classes\)\): concepts asks of the source's own images; see of_source"
    with pytest.raises(UserError, match=rule):
        replace(TRIAL, target=other)
