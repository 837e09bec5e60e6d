"""Fine-tuning: the rates of layers, when they join, and a head that was trained before."""

from dataclasses import replace

import pytest
import torch
from small_world import context, give, run, small_world, trainings  # noqa: F401  (one is a fixture)

from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods import L2SP, CoTuning, Distillation, FineTune, Probe
from transferlab.nets.build import build, head_of
from transferlab.specs import AlexNet, OneOf, Recipe, Source, Subset, Target, Trained, Trial
from transferlab.store import Store
from transferlab.train.fit import fit_together
from transferlab.train.optim import RelativeGradientNorm

RECIPE = Recipe(steps=10, batch=8, lr=0.01, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]


def tuned(seed: int = 1, recipe: Recipe = RECIPE, before: Trial | None = None, **given) -> Trial:
    return Trial(TARGET, FineTune(recipe, **given), BACKBONE, seed, before or SOURCE)


def network() -> torch.nn.Module:
    return build(BACKBONE, 24, 6, seed=3)


def prepared(root, asked: Trial, net: torch.nn.Module | None = None):
    """A training as it begins, and what each part of the network learns at, by its name."""
    give(root, asked.start, net or network())
    ready = asked.prepare(context(root))
    names = {id(module): name for name, module in ready.net.named_modules()}
    return ready, {names[id(module)]: rate for module, rate in ready.lr_multipliers.items()}


# --------------------------------------------------------------------------------------------------- layers' own rates


def test_each_layer_learns_at_a_multiple_of_the_next_ones_rate(tmp_path):
    _, rates = prepared(tmp_path, tuned(layer_decay=0.5, head_lr=4.0))
    assert rates == {"head": 4.0} | {name: 0.5 ** (7 - i) for i, name in enumerate(LAYERS)}


def test_a_first_step_moves_layers_by_their_rates(tmp_path):
    """Plain descent from one start on one batch: what decay takes off a step is what was asked for."""
    plain = replace(
        RECIPE, lr=1.0, steps=1, momentum=0.0, weight_decay=0.0, warmup=0.0, schedule="step", milestones=(0.9,)
    )
    start, found = network().state_dict(), []
    for name, given in (("all", {}), ("decay", {"layer_decay": 0.5})):
        with trainings() as seen:
            run(tmp_path / name, tuned(recipe=plain, **given), network())
        found.append({n: (v - start[n]).norm() for n, v in seen[0].run.trained.named_parameters() if "head" not in n})
    for i, layer in enumerate(LAYERS):
        matrix = f"{layer}.{'conv' if i < 5 else 'linear'}.weight"
        assert (found[1][matrix] / found[0][matrix]).item() == pytest.approx(0.5 ** (7 - i), rel=0.01)


def test_frozen_layers_are_not_counted(tmp_path):
    _, rates = prepared(tmp_path, tuned(layer_decay=0.5, unfreeze=0.4, freeze="conv5"))
    assert list(rates) == ["head", "fc7", "fc6"]
    assert rates["fc6"] == [0.0] * 4 + [0.25] * 6


# ---------------------------------------------------------------------------------------------------- layers that join


def test_layers_join_from_the_head_down(tmp_path):
    """By hand: seven layers over seven tenths of ten steps, one a step."""
    _, rates = prepared(tmp_path, tuned(unfreeze=0.7))
    assert rates.pop("head") == 3.0
    assert rates == {name: [0.0] * (7 - i) + [1.0] * (3 + i) for i, name in enumerate(LAYERS)}
    _, rates = prepared(tmp_path, tuned(unfreeze=0.35))
    joins = [rates[name].index(1.0) for name in reversed(LAYERS)]
    assert joins == [0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("pack", [1, 2])
def test_layers_rest_until_they_join(pack, tmp_path):
    """Bit for bit, decay and momentum included; all have moved in the end."""
    asked, start = [tuned(seed, unfreeze=0.7) for seed in (1, 2)], network().state_dict()
    for one in asked:
        give(tmp_path, one.start, network())
    moved = {}
    for stop in (1, 3, 10):
        short = [one.prepare(context(tmp_path)) for one in asked]
        for one, ready in zip(asked, short, strict=True):
            assert one.recipe.weight_decay > 0
            assert ready.recipe.momentum > 0
        fit_together([replace(ready, stop=stop) for ready in short[:pack]])
        state = short[0].net.state_dict()
        moved[stop] = {n.split(".")[0] for n in start if n.endswith("weight") and not torch.equal(start[n], state[n])
                       if not n.startswith("head")}  # fmt: skip
    assert moved == {1: set(), 3: {"fc7", "fc6"}, 10: {*LAYERS}}


# ----------------------------------------------------------------------------------------------------------- Auto-RGN


def test_rates_follow_relative_gradients_once_an_epoch(tmp_path):
    """An epoch of 20 images is three steps of eight."""
    ready, rates = prepared(tmp_path, tuned(auto_rgn=True))
    assert ready.gradient_scale == RelativeGradientNorm(3)
    assert rates == {"head": 3.0}


def test_epochs_of_different_lengths_train_apart(tmp_path):
    """They have one shape; a pack of them is taken apart, and nothing is lost."""
    few = replace(TARGET, subset=replace(TARGET.subset, per_class=1))
    asked = [tuned(auto_rgn=True), replace(tuned(auto_rgn=True), target=few)]
    assert asked[0].shape == asked[1].shape
    found = []
    for pack in (1, 2):
        give(tmp_path / str(pack), asked[0].start, network())
        Lab(tmp_path / str(pack), workers=1, device="cpu", quiet=True, pack=pack).run(asked)
        found.append([Store(tmp_path / str(pack)).get(one.key) for one in asked])
    assert [one["metrics"] for one in found[0]] == [one["metrics"] for one in found[1]]
    assert {one["status"] for one in found[1]} == {"ok"}
    with pytest.raises(
        UserError, match=r"gradient_scale \(=.*every=3.*\): must be the same of all that train together"
    ):
        fit_together([one.prepare(context(tmp_path / "1")) for one in asked])


# -------------------------------------------------------------------------------------------- a head that was trained


def probed() -> Trial:
    return tuned(recipe=replace(RECIPE, steps=60, lr=0.1), freeze="representation")


def test_a_second_stage_of_next_to_no_rate_is_the_first_stage(tmp_path):
    """LP-FT's start: the head goes on where it was."""
    still = tuned(recipe=replace(RECIPE, lr=1e-9), before=probed(), keep_head=True, batch_norm="statistics")
    give(tmp_path, probed().start, network())
    found = run(tmp_path, still)
    first = run(tmp_path, probed())
    for name in ("accuracy", "validation_accuracy", "mean_class_accuracy"):
        assert found[name] == first[name]
    assert found["log_loss"] == pytest.approx(first["log_loss"], abs=1e-4)
    assert first["train_loss"] < 1.3, "it has learned"
    assert (first["trained"], found["trained"]) == (16 * 5 + 5, found["parameters"])
    fresh = run(tmp_path, replace(still, method=replace(still.method, keep_head=None)))
    assert fresh["train_loss"] > found["train_loss"] + 0.1, "a new head knows nothing"


def test_the_second_stage_trains_everything(tmp_path):
    asked = tuned(before=probed(), keep_head=True)
    give(tmp_path, probed().start, network())
    with trainings() as seen:
        run(tmp_path, asked)
    (first, second), start = [one.run.trained.state_dict() for one in seen], network().state_dict()
    body = [n for n in start if not n.startswith("head") and n.endswith("weight")]
    assert all(torch.equal(first[n], start[n]) for n in body)
    assert not any(torch.equal(second[n], start[n]) for n in body)
    ready = asked.prepare(context(tmp_path))
    assert torch.equal(head_of(ready.net)[2].weight, context(tmp_path).load(Trained(probed()), 24).head.weight)


def test_both_stages_are_searched(tmp_path):
    """The first one's rate, then the second's; nothing of it is new to a search."""
    rates = replace(RECIPE, steps=4, lr=OneOf(0.003, 0.03, seeds=(1,)))
    asked = tuned(recipe=rates, before=tuned(recipe=rates, freeze="representation"), keep_head=True)
    give(tmp_path, probed().start, network())
    table = Lab(tmp_path, workers=1, device="cpu", quiet=True).run([asked])
    assert table["status"].tolist() == ["ok"]
    assert table["lr"][0] in (0.003, 0.03)
    assert table["keep_head"][0]


def test_frozen_layers_stay_bit_for_bit(tmp_path):
    """In a pack too: weights, and BatchNorm's statistics."""
    asked = [tuned(seed, freeze="conv3", head_lr=5.0) for seed in (1, 2)]
    start = network().state_dict()
    for pack in (1, 2):
        give(tmp_path / str(pack), asked[0].start, network())
        give(tmp_path / str(pack), asked[1].start, network())
        with trainings() as seen:
            Lab(tmp_path / str(pack), workers=1, device="cpu", quiet=True, pack=pack).run(asked)
        for one in seen:
            left = one.run.trained.state_dict()
            same = {n for n, v in start.items() if v.shape == left[n].shape and torch.equal(v, left[n])}
            assert same == {n for n in start if n.startswith(("conv1", "conv2", "conv3"))}


# ----------------------------------------------------------------------------------------------------- what is refused


OTHER = Trial(replace(TARGET, images=Target("synthetic:0.2", 24).images), FineTune(RECIPE), BACKBONE, 1, SOURCE)
MORE = Trial(replace(TARGET, subset=Subset(classes=6)), FineTune(RECIPE), BACKBONE, 1, SOURCE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tuned(layer_decay=1.0), r"layer_decay \(=1.0\): must be above 0 and below 1"),
        (lambda: tuned(layer_decay=0.0), r"layer_decay \(=0.0\): must be above 0 and below 1"),
        (lambda: tuned(unfreeze=1.5), r"unfreeze \(=1.5\): must be .* no schedule may be longer than the run"),
        (lambda: tuned(unfreeze=0.0), r"unfreeze \(=0.0\): must be above 0 and below 1"),
        (lambda: tuned(auto_rgn=False), r"auto_rgn \(=False\): must be True or left out"),
        (lambda: tuned(auto_rgn=True, layer_decay=0.5), r"layer_decay \(=0.5\): auto_rgn finds the rates .* itself"),
        (lambda: tuned(auto_rgn=True, unfreeze=0.5), r"unfreeze \(=0.5\): auto_rgn finds the rates of layers itself"),
        (
            lambda: tuned(keep_head=True),
            r"source \(=synthetic:source .*\): keep_head keeps that of a trial; start from",
        ),
        (
            lambda: tuned(before=OTHER, keep_head=True),
            r"source \(=.*\): keep_head .*; start from one on the same classes",
        ),
        (
            lambda: tuned(before=MORE, keep_head=True),
            r"source \(=.*\): keep_head .*; start from one on the same classes",
        ),
        (lambda: tuned(keep_head=False), r"keep_head \(=False\): must be True or left out"),
        (lambda: tuned(before=replace(OTHER, method=Probe()), keep_head=True), r"source \(=.*\): trains no network"),
        (
            lambda: tuned(before=probed(), keep_head=True, hold=Distillation(1.0)),
            r"hold \(=distillation\): asks the source's head, and keep_head keeps the target's",
        ),
        (lambda: FineTune(RECIPE, keep_head=True, hold=CoTuning(1.0)), r"hold \(=co-tuning\): asks the source's head"),
        (lambda: tuned(recipe=replace(RECIPE, momentum=1.0)), r"momentum \(=1.0\): must be at least 0 and below 1"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    "given",
    [{"hold": L2SP(1.0)}, {"layer_decay": 0.5}, {"unfreeze": 0.5}, {"auto_rgn": True}],
    ids=lambda g: next(iter(g)),
)
def test_nothing_below_the_head_is_trained(given, tmp_path):
    ((name, value),) = given.items()
    asked = tuned(freeze="representation", **given)
    give(tmp_path, asked.start, network())
    with pytest.raises(
        UserError, match=rf"{name} \(={getattr(value, 'kind', value)}\): no layer below the head is trained"
    ):
        Lab(tmp_path, workers=1, device="cpu", quiet=True).run([asked])
