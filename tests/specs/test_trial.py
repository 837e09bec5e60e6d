"""The vocabulary: keys, round trips, searches, and what is refused."""

import hashlib
import json
from dataclasses import replace

import pytest

from transferlab import scales
from transferlab.backbones import AlexNet
from transferlab.errors import UserError
from transferlab.serial import Spec, canonical
from transferlab.specs import SEARCH_SEEDS, FineTune, Grow, Probe, Recipe, Scratch, Source, Subset, Target, Trial, Weights, source_key

SMOKE = scales.scale("smoke")
SOURCE = SMOKE.source_of(per_class=10)
TARGET = SMOKE.target("synthetic:0")


def fine_tune(lr=0.05, seed=0, split="test", **recipe) -> Trial:
    return Trial(TARGET, FineTune(replace(SMOKE.train, lr=lr, **recipe)), SMOKE.backbone, seed, SOURCE, split)


def test_round_trip_through_json():
    trial = fine_tune(lr=(0.01, 0.1))
    again = Spec.from_dict(json.loads(canonical(trial.to_dict())))
    assert again == trial
    assert again.key == trial.key


@pytest.mark.parametrize(
    "other",
    [
        fine_tune(seed=1),
        fine_tune(lr=0.1),
        fine_tune(split="validation"),
        fine_tune(precision="bf16"),
        replace(fine_tune(), source=SMOKE.source_of(per_class=11)),
        replace(fine_tune(), target=SMOKE.target("synthetic:0.1")),
        replace(fine_tune(), method=FineTune(SMOKE.train, freeze="conv2")),
        replace(fine_tune(), target=replace(TARGET, images=replace(TARGET.images, fingerprint="another"))),
    ],
)
def test_whatever_changes_the_result_changes_the_key(other):
    assert other.key != fine_tune().key


def test_equal_trials_have_equal_keys():
    assert fine_tune() == fine_tune()
    assert fine_tune().key == fine_tune().key


def test_a_field_that_is_none_is_left_out():
    assert "freeze" not in fine_tune().method.to_dict()
    assert FineTune(SMOKE.train, freeze="conv1").to_dict()["freeze"] == "conv1"


def test_an_older_version_is_refused():
    data = fine_tune().to_dict()
    data["backbone"]["version"] = 0
    with pytest.raises(UserError, match=r"alexnet version \(=0\): this package has version 1"):
        Spec.from_dict(data)


def test_torchvisions_weights_are_what_their_name_says():
    assert Weights("torchvision:IMAGENET1K_V1").fingerprint == "IMAGENET1K_V1"
    assert Weights("file:squeezenet1_0.safetensors").fingerprint != ""
    with pytest.raises(UserError, match=r"weights \(=hub\): must be one of file, torchvision"):
        Weights("hub:resnet")


def test_search_reads_validation_only_and_pools_its_seeds():
    trial = fine_tune(lr=(0.01, 0.1), seed=5)
    searches = trial.searches()
    assert {t.split for t in searches} == {"validation"}
    assert {t.seed for t in searches} == set(SEARCH_SEEDS)
    assert {t.recipe.lr for t in searches} == {0.01, 0.1}
    assert all(not t.searches() for t in searches)
    assert fine_tune(lr=(0.01, 0.1), seed=6).searches() == searches  # once for each (target, arm), whatever the seed


def test_resolve_takes_the_best_mean_and_the_smaller_of_equals():
    trial = fine_tune(lr=(0.1, 0.01), seed=5)
    score = {t.key: {0.01: 0.4, 0.1: 0.3 + 0.3 * t.seed}[t.recipe.lr] for t in trial.searches()}
    assert trial.resolve(score).recipe.lr == 0.1
    assert trial.resolve(score).split == "test"
    assert trial.resolve(score).seed == 5
    assert trial.resolve(dict.fromkeys(score, 0.5)).recipe.lr == 0.01
    assert trial.resolve(dict(list(score.items())[1:])) is None
    assert fine_tune().resolve({}) == fine_tune()


def test_networks_are_kept_by_source_backbone_and_seed():
    assert source_key(fine_tune(lr=0.1)) == source_key(fine_tune(lr=0.2))
    assert source_key(fine_tune(seed=1)) != source_key(fine_tune(seed=2))
    assert source_key(Trial.of_source(SOURCE, SMOKE.backbone, 0)) == source_key(fine_tune())


def test_source_task_keeps_the_classes_but_not_the_number_of_images():
    trial = Trial.of_source(SMOKE.source_of(per_class=3), SMOKE.backbone, 0)
    assert trial.target.subset == Subset(classes=25)


def test_labels_and_columns_tell_trials_apart():
    target = "synthetic:0 (20 classes, 15 a class)"
    assert fine_tune().label == f"synthetic:source (25 classes, 10 a class) > {target}, fine-tune lr 0.05, seed 0, test"
    columns = fine_tune().columns()
    assert (columns["source_per_class"], columns["source_classes"], columns["method"], columns["lr"]) == (10, 25, "fine-tune", 0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target("flower102", 32), r"data set \(=flower102\): must be one of .* did you mean flowers102\?"),
        (lambda: Target("synthetic:2", 32), r"data set \(=synthetic:2\): must be synthetic:source or synthetic:D with D from 0"),
        (lambda: Target("folder:/nowhere", 32), r"not pinned yet; pin it with: transferlab data pin folder:/nowhere"),
        (lambda: Target("synthetic:0", 8), r"size \(=8\): must be 16 pixels or more"),
        (lambda: Subset(per_class=0), r"per_class \(=0\): must be a whole number above 0"),
        (lambda: Subset(classes=1), r"classes \(=1\): must be at least 2"),
        (lambda: Subset(depth=-1), r"depth \(=-1\): must be a whole number, 0 or more"),
        (lambda: Recipe(10, 8, 0.1, schedule="cosin"), r"schedule \(=cosin\): must be one of cosine, step; did you mean cosine\?"),
        (lambda: Recipe(10, 8, 0.1, schedule="step"), r"milestones \(=None\): belong to the step schedule"),
        (lambda: Recipe(10, 8, 0.1, precision="fp16"), r"precision \(=fp16\): must be one of float32, bf16"),
        (lambda: Recipe(0, 8, 0.1), r"steps \(=0\): must be a whole number above 0"),
        (lambda: Recipe(10, 8, 1), r"lr \(=1\): must be a float between 0 and 100"),
        (lambda: AlexNet((1, 2, 3), (4, 5)), r"channels .*: must be five numbers or more"),
        (lambda: AlexNet.named("smal"), r"width \(=smal\): must be one of tiny, small, medium, large; did you mean small\?"),
        (lambda: Source("synthetic:source", 24, replace(SMOKE.train, lr=(0.1, 0.2))), r"source lr .*: must be a single rate"),
        (lambda: Grow(SMOKE.train, "wide", (4,)), r"how \(=wide\): must be one of widen, .*; did you mean widen\?"),
        (lambda: Grow(SMOKE.train, "widen", (4, 4)), r"units \(=\(4, 4\)\): widen takes a tuple of 1$"),
        (lambda: Grow(SMOKE.train, "widen", 8), r"units \(=8\): widen takes a tuple of 1$"),
        (lambda: Grow(SMOKE.train, "normalise", norm="batch"), r"norm \(=batch\): normalise takes none; leave it out"),
        (lambda: Grow(SMOKE.train, "deepen", (4,), copy=True), r"copy \(=True\): deepen takes none; leave it out"),
        (lambda: Grow(SMOKE.train, "net2wider", (4,), norm="none"), r"norm \(=none\): net2wider takes none; leave it out"),
        (lambda: Grow(SMOKE.train, "net2deeper", scale=5.0), r"scale \(=5.0\): net2deeper takes none; leave it out"),
        (lambda: Grow(SMOKE.train, "widen", (4,), "none", scale=5.0), r"scale \(=5.0\): is that of l2, not of norm none; leave it out"),
        (lambda: Grow(SMOKE.train, "widen", (4,), copy=True, spread=2.0), r"spread \(=2.0\): is that of random units beside FC7"),
        (lambda: Grow(SMOKE.train, "widen-twice", (4, 0)), r"units \(=0\): must be a whole number above 0"),
        (lambda: Grow(SMOKE.train, "widen", (4,), scope="fc5-new"), r"scope \(=fc5-new\): must be one of .*; did you mean fc"),
        (lambda: Grow(SMOKE.train, "widen", (4,), new_lr=0), r"new_lr \(=0\): must be above 0"),
        (lambda: Grow(SMOKE.train, "widen", (4,), unit_lr=-1.0), r"unit_lr \(=-1.0\): must be above 0"),
        (lambda: Grow(SMOKE.train, "widen", (4,), spread=0.0), r"spread \(=0.0\): must be above 0"),
        (lambda: Grow(SMOKE.train, "deepen", (4,), spread=2.0), r"spread \(=2.0\): is that of random units beside FC7"),
        (lambda: Grow(SMOKE.train, "deepen", (4,), watch=True), r"watch \(=True\): looks at units beside others; deepen adds none"),
        (lambda: Trial(TARGET, Grow(SMOKE.train, "widen", (4,)), SMOKE.backbone, 0), r"source \(=None\): grow needs one"),
        (lambda: Probe(strengths=(0.0,)), r"strengths .*: must be above 0"),
        (lambda: Trial(TARGET, Scratch(SMOKE.train), SMOKE.backbone, 0, SOURCE), r"source .*: scratch needs none"),
        (lambda: Trial(TARGET, Probe(), SMOKE.backbone, 0), r"source \(=None\): probe needs one"),
        (lambda: Trial(TARGET, Scratch(SMOKE.train), SMOKE.backbone, -1), r"seed \(=-1\): must be a whole number, 0 or more"),
        (lambda: Trial(replace(TARGET, size=32), Probe(), SMOKE.backbone, 0, SOURCE), r"size \(=32\): AlexNet keeps its source's, 24"),
    ],
)
def test_refused_with_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "means"), [(3, [0, 1, 2]), ("0-3", [0, 1, 2, 3]), ("4-5,9", [4, 5, 9]), ("7", [7])])
def test_seed_list(given, means):
    assert scales.seed_list(given) == means


@pytest.mark.parametrize("given", [0, "", "a", "3-1", -2])
def test_seed_list_refuses(given):
    with pytest.raises(UserError, match=r"seeds .*: must be a number of seeds \(8\), a block \(0-3\) or a list"):
        scales.seed_list(given)


@pytest.mark.parametrize(
    ("given", "message"), [("1,0-2", "names a seed twice"), ("5-9999999999", "1000 at most"), (10**12, "1000 at most")]
)
def test_seed_list_refuses_too_many(given, message):
    with pytest.raises(UserError, match=rf"seeds \(={given}\): (must be )?{message}$"):
        scales.seed_list(given)


@pytest.mark.parametrize("name", ["smoke", "cpu", "gpu"])
def test_scales_make_trials(name):
    s = scales.scale(name)
    trials = [Trial(s.target(t), s.finetune, s.backbone, 0, s.source_of()) for t in s.targets]
    assert len({t.key for t in trials}) == len(s.targets)
    assert s.scratch.recipe == s.finetune.recipe  # the baseline gets the same search


def test_canonical_text_is_put_together_from_its_parts():
    for trial in (fine_tune(lr=(0.01, 0.1)), fine_tune(), Trial.of_source(SOURCE, SMOKE.backbone, 3)):
        assert trial.canonical == canonical(trial.to_dict())
        parts = {"source": trial.source.to_dict(), "backbone": trial.backbone.to_dict(), "seed": trial.seed}
        assert source_key(trial) == hashlib.sha256(canonical(parts).encode()).hexdigest()[:16]
