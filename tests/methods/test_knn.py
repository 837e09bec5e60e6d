"""Nearest neighbours: known answers on features that are laid out by hand, and on real ones."""

from dataclasses import replace

import pytest
import torch
from small_world import context, run
from torch import nn

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.methods import KNN
from transferlab.nets.build import build
from transferlab.run.context import Context
from transferlab.seeds import stream
from transferlab.specs import AlexNet, Recipe, Source, Subset, Target, Trial
from transferlab.train.read import read

BACKBONE = AlexNet((16, 24, 32, 32, 32), (128, 128))
SOURCE = Source("synthetic:source", 24, Recipe(steps=1, batch=8, lr=0.1), Subset(classes=7))
TARGET = Target("synthetic:0", 24, Subset(classes=5, per_class=6))
TRIAL = Trial(TARGET, KNN(), BACKBONE, 0, SOURCE)


def network() -> nn.Module:
    return build(BACKBONE, 24, 7, seed=0)


def answers(split: str) -> torch.Tensor:
    return target_sample(TARGET, split, 0).labels


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A function: what is measured of a network that has these features for training, test and validation images."""

    def measured(known: torch.Tensor, asked: torch.Tensor, among: int = 5, held: torch.Tensor | None = None) -> dict:
        parts = {"train": known, "test": asked, "validation": one_hot(answers("validation")) if held is None else held}
        monkeypatch.setattr(Context, "features", lambda self, trial, sample, tap: parts[sample.split])
        return run(tmp_path, replace(TRIAL, method=KNN(among=among)), network())

    return measured


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.one_hot(labels, 5).float()


def test_features_that_are_the_labels_are_always_right(found):
    got = found(one_hot(answers("train")), 3 * one_hot(answers("test")))  # lengths do not matter
    assert got["accuracy"] == got["accuracy_among"] == 1
    assert got["right"] == got["right_among"] == answers("test").bincount().tolist()
    assert got["n"] == len(answers("test"))


def test_features_of_the_next_class_are_always_wrong(found):
    got = found(one_hot(answers("train")), one_hot((answers("test") + 1) % 5))
    assert got["accuracy"] == got["accuracy_among"] == 0
    assert got["right"] == got["right_among"] == [0] * 5


def test_among_a_few_a_second_best_class_counts(found):
    asked = one_hot((answers("test") + 1) % 5) + 0.5 * one_hot(
        answers("test")
    )  # six images of the next class are nearer
    known = one_hot(answers("train"))
    assert found(known, asked, among=6)["accuracy_among"] == 0
    got = found(known, asked, among=7)
    assert (got["accuracy"], got["accuracy_among"]) == (0, 1)


def test_more_neighbours_than_images_are_all_of_them(found):
    assert found(one_hot(answers("train")), torch.ones(len(answers("test")), 5), among=1000)["accuracy_among"] == 1


def test_validation_images_are_looked_up_too(found):
    wrong = one_hot((answers("validation") + 1) % 5)
    got = found(one_hot(answers("train")), one_hot(answers("test")), held=wrong)
    assert (got["accuracy"], got["validation_accuracy"], got["validation_accuracy_among"]) == (1, 0, 0)
    assert got["validation_n"] == len(answers("validation"))


def test_a_network_that_is_random_beats_chance_and_a_known_run_repeats(tmp_path):
    one, two = (run(tmp_path / name, TRIAL, network()) for name in ("one", "two"))
    assert one == two
    assert 0.2 < one["accuracy"] < one["accuracy_among"] <= 1
    assert sum(one["right"]) == round(one["accuracy"] * one["n"])


def test_an_image_is_found_among_its_own_kind(tmp_path):
    """By hand: the nearest by cosine, of features that are read here."""
    got, net, near = run(tmp_path, TRIAL, network()), network(), {}
    for split in ("train", "test", "validation"):
        near[split] = nn.functional.normalize(read(net, target_sample(TARGET, split, 0), ["fc7"])["fc7"])
    for split, before in (("test", ""), ("validation", "validation_")):
        nearest = answers("train")[(near[split] @ near["train"].T).argmax(1)]
        assert got[f"{before}accuracy"] == pytest.approx((nearest == answers(split)).float().mean().item(), abs=1e-5)


def test_without_a_source_the_network_is_an_untrained_one(tmp_path):
    got = run(tmp_path / "none", replace(TRIAL, source=None))
    fresh = build(BACKBONE, 24, 5, stream(0, "target weights"))
    assert got == run(tmp_path / "given", TRIAL, fresh)
    assert not (tmp_path / "none" / "features").exists(), "an untrained network's features are not kept"


def test_an_unknown_layer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"layer \(=fc77\): .*did you mean fc7\?"):
        run(tmp_path, replace(TRIAL, method=KNN(tap="fc77")), network())


def test_no_neighbours_are_refused():
    with pytest.raises(UserError, match=r"among \(=0\): must be a whole number above 0"):
        KNN(among=0)


def test_features_are_those_of_the_source_alone(tmp_path):
    """The file is made once, and read for the next layer."""
    run(tmp_path, TRIAL, network())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    assert {context(tmp_path).store.file(made) for made in TRIAL.needs()} == files.keys()
    run(tmp_path, replace(TRIAL, method=KNN("fc6")))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == files
