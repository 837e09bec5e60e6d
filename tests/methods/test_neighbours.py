"""Nearest neighbours: known answers on features that are laid out by hand, and on real ones."""

import pytest
import torch
from torch import nn

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.methods import neighbours
from transferlab.nets.build import build
from transferlab.scales import scale
from transferlab.specs import Neighbours, Subset, Target, Trial

S = scale("smoke")
TARGET = Target("synthetic:0", S.size, Subset(classes=5, per_class=6))
TRIAL = Trial(TARGET, Neighbours(), S.backbone, 0, S.source_of())
CPU = torch.device("cpu")


def answers(split: str) -> torch.Tensor:
    return target_sample(TARGET, split, 0).labels


def found(known: torch.Tensor, asked: torch.Tensor, among: int = 5) -> dict:
    """What is measured of a network that has these features for the training and for the test images."""
    trial = Trial(TARGET, Neighbours(among=among), S.backbone, 0, S.source_of())
    parts = iter((known, asked))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "features", lambda net, sample, taps: {taps[0]: next(parts)})
        return neighbours.run(trial, nn.Identity(), CPU)


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(labels, 5).float()


def test_features_that_are_the_labels_are_always_right():
    got = found(one_hot(answers("train")), 3 * one_hot(answers("test")))  # lengths do not matter
    assert got["accuracy"] == got["accuracy_among"] == 1
    assert got["right"] == got["right_among"] == answers("test").bincount().tolist()
    assert got["n"] == len(answers("test"))


def test_features_of_the_next_class_are_always_wrong():
    got = found(one_hot(answers("train")), one_hot((answers("test") + 1) % 5))
    assert got["accuracy"] == got["accuracy_among"] == 0
    assert got["right"] == got["right_among"] == [0] * 5


def test_among_a_few_a_second_best_class_counts():
    asked = one_hot((answers("test") + 1) % 5) + 0.5 * one_hot(answers("test"))  # six images of the next class are nearer
    known = one_hot(answers("train"))
    assert found(known, asked, among=6)["accuracy_among"] == 0
    got = found(known, asked, among=7)
    assert (got["accuracy"], got["accuracy_among"]) == (0, 1)


def test_more_neighbours_than_images_are_all_of_them():
    assert found(one_hot(answers("train")), torch.ones(len(answers("test")), 5), among=1000)["accuracy_among"] == 1


def test_a_network_that_is_random_beats_chance_and_a_known_run_repeats():
    net = build(S.backbone, S.size, 7, seed=0)
    one, two = (neighbours.run(TRIAL, net, CPU) for _ in range(2))
    assert one == two
    assert 0.2 < one["accuracy"] < one["accuracy_among"] <= 1
    assert sum(one["right"]) == round(one["accuracy"] * one["n"])


def test_an_unknown_layer_is_named():
    trial = Trial(TARGET, Neighbours(tap="fc77"), S.backbone, 0, S.source_of())
    with pytest.raises(UserError, match=r"layer \(=fc77\): .*did you mean fc7\?"):
        neighbours.run(trial, build(S.backbone, S.size, 7, seed=0), CPU)


def test_no_neighbours_are_refused():
    with pytest.raises(UserError, match=r"among \(=0\): must be a whole number above 0"):
        Neighbours(among=0)
