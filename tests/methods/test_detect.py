"""Detection: what goes over, what is refused, and that the one loop holds for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_world import context, give, killed_at, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.measure.detection import scores_of_detections
from transferlab.methods import Detect, FineTune, Scratch
from transferlab.nets.build import build
from transferlab.seeds import stream
from transferlab.specs import (
    AlexNet,
    Detection,
    MultiLabel,
    OneOf,
    Recipe,
    Source,
    Subset,
    Target,
    Torchvision,
    Trained,
    Trial,
)
from transferlab.store import Store
from transferlab.train.read import detected

RECIPE = Recipe(steps=12, batch=4, lr=0.01)
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01), Subset(classes=6))
TARGET = Target("synthetic:0.5", 32, Subset(depth=1, images=12), Detection())


def trial(method: Detect | None = None, source: Source | Trial | None = SOURCE, **fields) -> Trial:
    return replace(Trial(TARGET, method or Detect(RECIPE), BACKBONE, 1, source), **fields)


def network() -> torch.nn.Module:
    return build(BACKBONE, 24, 6, seed=3)


def of(root: Path, asked: Trial):
    """What ended of a trial from `network`, and what it put on record."""
    with trainings() as seen:
        metrics = run(root, asked, network() if asked.source else None)
    return seen[0].run, seen[0].fitted, metrics


# ------------------------------------------------------------------------------------------------------- what goes over


def test_only_convolutions_go_over_to_larger_images(tmp_path):
    give(tmp_path, trial().start, network())
    made, source = trial().prepare(context(tmp_path)), network().state_dict()
    body = made.net.backbone.body.state_dict()
    assert {name.split(".")[0] for name in body} == {f"conv{i}" for i in range(1, 6)}
    assert all(torch.equal(value, source[name]) for name, value in body.items())
    new = {made.net.backbone.fpn, made.net.rpn, made.net.roi_heads}
    assert made.lr_multipliers == dict.fromkeys(new, 3.0)


def test_statistics_are_kept_from_a_source_and_the_batch_is_used_from_scratch(tmp_path):
    kept, moved = of(tmp_path / "a", trial())[0], of(tmp_path / "b", trial(Detect(RECIPE, batch_norm="train")))[0]
    before = network().conv3.norm
    assert torch.equal(kept.net.backbone.body.conv3.norm.running_mean, before.running_mean)
    assert not torch.equal(kept.net.backbone.body.conv3.norm.weight, before.weight)
    assert not torch.equal(moved.net.backbone.body.conv3.norm.running_mean, before.running_mean)
    fresh = of(tmp_path / "c", trial(source=None))[0]
    assert not torch.equal(fresh.net.backbone.body.conv3.norm.running_mean, torch.zeros(8))
    assert fresh.lr_multipliers == {}


def test_frozen_layers_stay(tmp_path):
    made, _, metrics = of(tmp_path, trial(Detect(RECIPE, freeze="conv4")))
    before, after = network().state_dict(), made.net.backbone.body.state_dict()
    same = {name.split(".")[0] for name, value in after.items() if torch.equal(value, before[name])}
    assert {"conv1", "conv2", "conv3", "conv4"} <= same
    assert not torch.equal(after["conv5.conv.weight"], before["conv5.conv.weight"])
    assert metrics["trained"] < metrics["parameters"]


def test_from_scratch_with_the_sources_entrance_it_is_the_sources_network(tmp_path):
    large = replace(TARGET, size=96)  # an AlexNet for 96 px begins with larger filters
    bodies = {}
    for entrance in (None, 24):
        made = trial(Detect(RECIPE, entrance=entrance), None, target=large).prepare(context(tmp_path))
        bodies[entrance] = [p.shape for p in made.net.backbone.body.parameters()]
    own = [p.shape for name, p in network().named_parameters() if name.startswith("conv")]
    assert bodies[24] == own != bodies[None]


def test_other_networks_too(tmp_path):
    net = Torchvision("squeezenet1_0")
    made = Trial(replace(TARGET, size=48), Detect(replace(RECIPE, steps=2)), net, 1)
    assert run(tmp_path, made)["n"] > 0


# ------------------------------------------------------------------------------------------------------------- records


def test_what_is_on_record_is_what_the_network_finds(tmp_path):
    made, _, metrics = of(tmp_path, trial())
    names = {"ap50", "map", "ap_voc07", "class_ap50", "n"}
    assert names | {f"validation_{name}" for name in names} <= metrics.keys()
    assert len(metrics["class_ap50"]) == 4
    sample = context(tmp_path).sample(TARGET, "validation", 1)
    found = scores_of_detections(detected(made.trained, sample), sample.labels, 4)
    assert {f"validation_{name}": value for name, value in found.items()}.items() <= metrics.items()


def test_equal_seeds_are_equal_bits_and_other_trials_change_nothing(tmp_path):
    """Proposals are drawn for each alone, whatever is trained beside it."""
    alone = of(tmp_path / "alone", trial())[1].losses
    trials = [trial(), trial(seed=2), trial(Detect(RECIPE, head_lr=1.0))]
    give(tmp_path / "all", trial().start, network())
    give(tmp_path / "all", trial(seed=2).start, network())
    with trainings() as seen:
        table = Lab(tmp_path / "all", workers=1, device="cpu", quiet=True, pack=3).run(trials)
    assert table["status"].tolist() == ["ok"] * 3
    losses = {s.job.key: s.fitted.losses for s in seen}
    assert torch.equal(losses[trial().key], alone)
    assert len({tuple(row.tolist()) for row in losses.values()}) == 3


@pytest.mark.parametrize("at", [0, 7])
def test_killed_and_gone_on_it_is_the_same(at, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", trial(), network())
    begun = killed_at(at, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", trial(), network())
    assert run(tmp_path / "killed", trial()) == whole
    assert begun == [*range(at + 1), *range(at, RECIPE.steps)]


def test_what_it_leaves_can_be_loaded(tmp_path):
    made, _, _ = of(tmp_path, trial())
    here, asked = context(tmp_path), Trained(trial())
    here.keep(asked, made.trained.state_dict())
    again = here.load(asked, 32)
    sample = here.sample(TARGET, "test", 1)
    before, after = detected(made.trained, sample), detected(again, sample)
    assert all(torch.equal(one[name], two[name]) for one, two in zip(before, after, strict=True) for name in one)


def test_a_search_goes_by_validation_ap50():
    asked = trial(Detect(replace(RECIPE, lr=OneOf(0.01, 0.03, seeds=(0, 1)))))
    assert asked.asked == ("ap50",)
    ap50 = {t.key: t.recipe.lr for t in asked.searches()}
    assert asked.resolve(ap50).recipe.lr == 0.03
    assert asked.target.asks.chosen_by == "validation_ap50"


def test_a_chain_from_a_classifier(tmp_path):
    before = Trial(Target("synthetic:0.2", 24, Subset(classes=3, per_class=3)), FineTune(RECIPE), BACKBONE, 1, SOURCE)
    give(tmp_path, before.start, network())
    Lab(tmp_path, workers=1, device="cpu", quiet=True).run([trial(source=before)])
    assert Store(tmp_path).get(trial(source=before).key)["status"] == "ok"


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Detect(replace(RECIPE, precision="bf16")), r"precision \(=bf16\): boxes are found in float32"),
        (lambda: Detect(RECIPE, batch_norm="frozn"), r"batch_norm \(=frozn\): .*did you mean frozen"),
        (lambda: Detect(RECIPE, entrance=3), r"entrance \(=3\): must be 16 pixels or more"),
        (lambda: trial(Detect(RECIPE, entrance=32)), r"entrance \(=32\): is that of an AlexNet from scratch"),
        (lambda: trial(Detect(RECIPE, freeze="conv1"), None), r"freeze \(=conv1\): from scratch nothing"),
        (
            lambda: trial(Detect(RECIPE, batch_norm="frozen"), None),
            r"batch_norm \(=frozen\): from scratch there are no",
        ),
        (lambda: trial(target=replace(TARGET, task=MultiLabel())), r"task \(=multi-label\): detect takes detection"),
        (lambda: trial(target=replace(TARGET, task=None)), r"task \(=single-label\): detect takes detection"),
        (lambda: trial(Scratch(RECIPE), None), r"task \(=detection\): scratch takes single-label and multi-label"),
        (lambda: trial(source=trial()), r"source \(=.*\): is of a detection target: no start"),
    ],
)
def test_what_cannot_be(make, rule):
    with pytest.raises(UserError, match=rule):
        make()


def test_no_norm_to_be_kept_is_no_trouble_unless_it_is_asked_for(tmp_path):
    plain = AlexNet((8, 8, 8, 8, 8), (24, 16), norm="none")
    for mode, wanted in ((None, "ok"), ("statistics", "refused")):
        asked = Trial(TARGET, Detect(replace(RECIPE, steps=2), batch_norm=mode), plain, 1, SOURCE)
        give(tmp_path, asked.start, build(plain, 24, 6, stream(1, "source weights")))
        try:
            status = Lab(tmp_path, workers=1, device="cpu", quiet=True).run([asked])["status"][0]
        except UserError as e:
            status = f"refused: {e}"
        assert status.startswith(wanted)
