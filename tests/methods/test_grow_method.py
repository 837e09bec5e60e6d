"""Growing as a method: what is trained how fast, alone, packed, and when it is killed."""

from dataclasses import replace

import pytest
import torch
from small_world import context, give, killed_at, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.lab import Lab
from transferlab.methods import Grow
from transferlab.nets.build import build, head_of
from transferlab.specs import AlexNet, OneOf, Recipe, Source, Subset, Target, Trial
from transferlab.train.optim import parameter_groups
from transferlab.train.run import Run

RECIPE = Recipe(steps=30, batch=16, lr=0.003, augment="none")
BACKBONE = AlexNet((8, 12, 16, 16, 12), (32, 24))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01))
TARGET = Target("synthetic:0.5", 24, Subset(classes=6, per_class=5))


def trial(seed: int = 1, **given) -> Trial:
    return Trial(TARGET, Grow(**({"recipe": RECIPE, "how": "widen", "units": (12,)} | given)), BACKBONE, seed, SOURCE)


def network():
    return build(BACKBONE, 24, 7, seed=3)


def prepared(root, asked: Trial) -> Run:
    give(root, asked.start, network())
    return asked.prepare(context(root))


def test_counted_parameters(tmp_path):
    found = run(tmp_path, trial(scope="new"), network())
    plain, classes = network(), 6
    new = 32 * 12 + 12 + (24 + 12) + (24 + 12) * classes + classes  # units, gains, head
    kept = sum(p.numel() for name, p in plain.named_parameters() if not name.startswith("head"))
    assert found["trained"] == new
    assert found["parameters"] == kept + new


def test_new_units_may_have_a_rate_of_their_own(tmp_path):
    ready = prepared(tmp_path, trial(unit_lr=100.0, norm="none"))
    multipliers = dict(ready.lr_multipliers)
    assert multipliers.pop(head_of(ready.net)[2]) == 10
    assert set(multipliers.values()) == {100}


def test_spread_is_that_of_new_weights(tmp_path):
    nets = (prepared(tmp_path, trial(**given)).net for given in ({}, {"spread": 10.0}))
    one, ten = (net.fc7.linear for net in nets)
    torch.testing.assert_close(ten.new[0].weight, 10 * one.new[0].weight)
    torch.testing.assert_close(ten.weight, one.weight)


@pytest.mark.parametrize(
    "given",
    [{}, {"how": "widen-twice", "units": (4, 12)}, {"how": "deepen", "units": (9,), "scope": "fc7-new"}],
)
def test_killed_and_gone_on_the_bits_are_the_same(given, tmp_path, monkeypatch):
    """Whole networks, and those of which only the last part is trained."""
    begun = killed_at(6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", trial(**given), network())
    with trainings() as ended:
        gone_on = run(tmp_path / "killed", trial(**given))
    assert begun == [*range(7), *range(6, RECIPE.steps)], "every step was taken once, and the seventh begun twice"
    with trainings() as whole:
        assert gone_on == run(tmp_path / "whole", trial(**given), network())
    assert torch.equal(ended[0].fitted.losses, whole[0].fitted.losses)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"norm": "batch"},
        {"how": "widen-and-deepen", "units": (12, 9)},
        {"how": "widen-twice", "units": (4, 12)},
    ],
)
def test_grown_networks_train_together_as_they_do_alone(given, tmp_path):
    slow = replace(RECIPE, steps=20, lr=1e-4)  # so that rounding stays small
    asked = [trial(seed, **given, recipe=slow) for seed in range(3)]
    found = []
    for root, pack in ((tmp_path / "packed", 3), (tmp_path / "alone", 1)):
        for one in asked:
            give(root, one.start, network())
        with trainings() as seen:
            Lab(root, workers=1, device="cpu", quiet=True, pack=pack).run(asked)
        found.append({one.job.key: one.fitted.losses for one in seen})
        assert context(root).store.get(asked[0].key)["provenance"].get("together", 1) == pack
    for key, losses in found[0].items():
        torch.testing.assert_close(losses, found[1][key], rtol=1e-5, atol=1e-5)


def test_new_units_learn_ten_times_as_fast(tmp_path):
    ready = prepared(tmp_path, trial())
    groups = parameter_groups(ready.net, RECIPE, ready.lr_multipliers)
    fast = {id(p) for g in groups for p in g["params"] if g["peak"] == pytest.approx(10 * RECIPE.lr)}
    named = dict(ready.net.named_parameters())
    expected = {n for n in named if ".new" in n or n.startswith("head")}
    assert {name for name, p in named.items() if id(p) in fast} == expected
    assert {g["peak"] for g in groups} == {RECIPE.lr, 10 * RECIPE.lr}


def test_how_much_to_grow_may_be_searched():
    """What validation chooses is what is reported, in the spelling that a trial has without a search."""
    asked = trial(5, units=OneOf((4,), (12,), seeds=(0, 1)), scope=OneOf("all", "new", seeds=(0, 1)))
    assert {(t.method.units, t.method.scope, t.seed) for t in asked.searches()} == {
        (units, scope, seed) for units in ((4,), (12,)) for scope in (None, "new") for seed in (0, 1)
    }
    accuracy = {t.key: 0.5 if t.method.units == (12,) else 0.4 + 0.1 * t.seed for t in asked.searches()}
    assert asked.resolve(accuracy) == trial(5)
    assert (asked.columns()["units"], trial(5).columns()["units"]) == (None, "12")
