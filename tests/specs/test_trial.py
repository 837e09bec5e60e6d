"""The vocabulary: keys, round trips, searches, and what is refused."""

import json
import pickle
from dataclasses import replace

import pytest

from transferlab import scales
from transferlab.errors import UserError
from transferlab.measure import Blocks, Forgetting, UnitTrace
from transferlab.methods import KNN, L2SP, Distillation, FineTune, Grow, Probe, Scratch, SourceTask
from transferlab.specs import (
    AlexNet,
    Features,
    OneOf,
    Pretrained,
    Recipe,
    Source,
    Spec,
    Subset,
    Target,
    Trained,
    Trial,
    Weights,
)
from transferlab.specs.serial import canonical, digest

SMOKE = scales.scale("smoke")
SOURCE = SMOKE.source_of(per_class=10)
TARGET = SMOKE.target("synthetic:0")
RATES = OneOf(0.01, 0.1)


def fine_tune(lr=0.05, seed=0, measures=(), **recipe) -> Trial:
    method = FineTune(replace(SMOKE.train, lr=lr, **recipe))
    return Trial(TARGET, method, SMOKE.backbone, seed, SOURCE, measures)


def source_task(source=SOURCE, seed=0) -> Trial:
    return Trial.of_source(source, SourceTask(), SMOKE.backbone, seed)


def chain(seed=0) -> Trial:
    return replace(fine_tune(seed=seed), source=fine_tune(seed=seed))


def test_round_trip_through_json():
    held = replace(fine_tune(), method=FineTune(SMOKE.train, hold=L2SP(0.1)))
    for trial in (fine_tune(lr=RATES), chain(), held):
        again = Spec.from_dict(json.loads(canonical(trial.to_dict())))
        assert again == trial
        assert again.key == trial.key
        assert pickle.loads(pickle.dumps(trial)) == trial


@pytest.mark.parametrize(
    "other",
    [
        fine_tune(seed=1),
        fine_tune(lr=0.1),
        fine_tune(precision="bf16"),
        fine_tune(lr=RATES),
        chain(),
        replace(fine_tune(), source=SMOKE.source_of(per_class=11)),
        replace(fine_tune(), source=replace(SOURCE, stop=0.5)),
        replace(fine_tune(), target=SMOKE.target("synthetic:0.1")),
        replace(fine_tune(), method=FineTune(SMOKE.train, freeze="conv2")),
        replace(fine_tune(), method=FineTune(SMOKE.train, hold=L2SP(1.0))),
        replace(fine_tune(), method=FineTune(SMOKE.train, hold=Distillation(1.0))),
        replace(fine_tune(), method=FineTune(SMOKE.train, batch_norm="frozen")),
        replace(fine_tune(), target=replace(TARGET, images=replace(TARGET.images, fingerprint="another"))),
    ],
)
def test_whatever_changes_the_result_changes_the_key(other):
    assert other.key != fine_tune().key


@pytest.mark.parametrize(
    "other",
    [
        fine_tune(),
        fine_tune(measures=(Forgetting(),)),
        fine_tune(measures=(Blocks((64, 64)), Forgetting())),
        replace(fine_tune(), source=replace(SOURCE, stop=1.0)),
    ],
)
def test_whatever_does_not_leaves_it(other):
    assert other.key == fine_tune().key
    assert hash(other) == hash(fine_tune())
    assert other.training == fine_tune()


def test_what_is_asked_of_a_record_are_the_measures_columns():
    assert fine_tune().asked == ("accuracy",)
    asked = fine_tune(measures=(Blocks((64, 64)), Forgetting())).asked
    assert asked == ("accuracy", *Blocks.columns, *Forgetting.columns)


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


# ----------------------------------------------------------------------------------------------------------- searches


def test_a_search_pools_its_seeds_and_is_of_what_is_reported():
    trial = fine_tune(lr=RATES, seed=1)
    searches = trial.searches()
    assert {t.seed for t in searches} == {0, 1, 2, 3}
    assert {t.recipe.lr for t in searches} == {0.01, 0.1}
    assert all(not t.searches() for t in searches)
    assert fine_tune(lr=RATES, seed=6).searches() == searches  # once for each (target, arm), whatever the seed
    assert trial.resolve(dict.fromkeys((t.key for t in searches), 0.5)) in searches, "it was trained already"
    assert fine_tune(lr=OneOf(0.01, 0.1, seeds=(4, 6))).searches()[0].seed == 4


def test_resolve_takes_the_best_mean_and_the_first_of_equals():
    trial = fine_tune(lr=OneOf(0.1, 0.01), seed=5)
    score = {t.key: {0.01: 0.4, 0.1: 0.3 + 0.1 * t.seed}[t.recipe.lr] for t in trial.searches()}
    assert trial.resolve(score).recipe.lr == 0.1
    assert trial.resolve(score).seed == 5
    assert trial.resolve(dict.fromkeys(score, 0.5)).recipe.lr == 0.1
    assert (
        fine_tune(lr=RATES).resolve(dict.fromkeys((t.key for t in fine_tune(lr=RATES).searches()), 0.5)).recipe.lr
        == 0.01
    )
    assert trial.resolve(dict(list(score.items())[1:])) is None
    assert fine_tune().resolve({}) == fine_tune()


def test_several_fields_are_searched_at_once_in_every_combination():
    recipe = replace(SMOKE.train, lr=OneOf(0.01, 0.1, seeds=(0,)), weight_decay=OneOf(0.0, 0.1, seeds=(0,)))
    pulls = OneOf(None, L2SP(0.1), Distillation(1.0), seeds=(0,))
    source = replace(SOURCE, stop=OneOf(0.5, 1.0, seeds=(0,)))
    trial = Trial(TARGET, FineTune(recipe, hold=pulls), SMOKE.backbone, 3, source, (Forgetting(),))
    assert len({t.key for t in trial.searches()}) == 2 * 2 * 3 * 2 == len(trial.searches())
    for t in trial.searches():
        found = trial.resolve({each.key: float(each == t) for each in trial.searches()})
        assert found == t.at_seed(3)
        assert found.measures == (Forgetting(),)
    assert {t.source.stop for t in trial.searches()} == {0.5, None}, "all steps are no stop"


def test_what_is_later_is_searched_when_the_rest_is_chosen():
    pulls = OneOf(None, L2SP(0.1), L2SP(1.0), seeds=(0,), later=True)
    recipe = replace(SMOKE.train, lr=OneOf(0.01, 0.1, 0.3, seeds=(0,)))
    trial = Trial(TARGET, FineTune(recipe, hold=pulls), SMOKE.backbone, 3, SOURCE)
    assert [(t.recipe.lr, t.method.hold) for t in trial.searches()] == [(0.01, None), (0.1, None), (0.3, None)]
    half = trial.resolve({t.key: t.recipe.lr % 0.3 for t in trial.searches()})
    assert (half.recipe.lr, half.seed, half.open) == (0.1, 3, True)
    assert [(t.recipe.lr, t.method.hold) for t in half.searches()] == [(0.1, pull) for pull in pulls.options]
    assert half.searches()[0] in trial.searches(), "what has run already runs no second time"
    found = half.resolve({t.key: float(t.method.hold == L2SP(1.0)) for t in half.searches()})
    assert (found.method.hold, found.open) == (L2SP(1.0), False)
    alone = replace(trial, method=FineTune(SMOKE.train, hold=pulls))
    assert len(alone.searches()) == 3, "with nothing before it, it is a search like any other"


def test_a_searched_field_may_hold_what_the_field_may_and_nothing_else():
    with pytest.raises(UserError, match=r"lr \(=1000.0\): must be a float between 0 and 100"):
        replace(SMOKE.train, lr=OneOf(0.1, 1000.0))
    with pytest.raises(UserError, match=r"scope \(=fc5-new\): must be one of"):
        Grow(SMOKE.train, "widen", (4,), scope=OneOf("new", "fc5-new"))
    with pytest.raises(UserError, match=r"strength \(=-1.0\): must be above 0"):
        FineTune(SMOKE.train, hold=OneOf(None, L2SP(OneOf(1.0, -1.0))))
    both = FineTune(replace(SMOKE.train, lr=OneOf(0.1, 0.2, seeds=(0,))), OneOf(1.0, 2.0, seeds=(1,)))
    with pytest.raises(UserError, match=r"seeds \(=\[\(0,\), \(1,\)\]\): of all that is searched must be the same"):
        replace(fine_tune(), method=both).searches()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneOf(0.1), r"options \(=\(0.1,\)\): must be two different values or more"),
        (lambda: OneOf(0.1, 0.1), r"options .*: must be two different values or more"),
        (lambda: OneOf(0.1, 0.2, seeds=()), r"seeds \(=\(\)\): must name those that decide"),
    ],
)
def test_no_search(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_what_is_open_costs_and_is_tabulated_like_one_of_its_trials():
    trial = replace(fine_tune(), method=FineTune(replace(SMOKE.train, steps=OneOf(10, 20), lr=RATES), OneOf(1.0, 2.0)))
    assert trial.cost() == trial.searches()[0].cost() > 0
    about = trial.columns()
    assert (about["lr"], about["head_lr"]) == (None, None)
    assert about.keys() == trial.searches()[0].columns().keys()


# ---------------------------------------------------------------------------------------------------------- artefacts


def test_networks_are_kept_by_source_backbone_and_seed():
    assert fine_tune(lr=0.1).start.key == fine_tune(lr=0.2).start.key
    assert fine_tune(seed=1).start.key != fine_tune(seed=2).start.key
    assert source_task().start == fine_tune().start == Pretrained(SOURCE, SMOKE.backbone, 0)
    assert fine_tune().needs() == (fine_tune().start,)
    assert Trial(TARGET, Scratch(SMOKE.train), SMOKE.backbone, 0).needs() == ()


def test_one_training_makes_the_networks_of_all_its_steps():
    made = [Pretrained(replace(SOURCE, stop=stop), SMOKE.backbone, 3) for stop in (0.25, 0.5, None)]
    assert {one.training for one in made} == {made[-1]}
    assert [one.steps for one in made] == [SMOKE.pretrain.steps // n for n in (4, 2, 1)]
    assert len({one.key for one in made}) == 3
    assert made[0].cost() == pytest.approx(made[2].cost() / 4)
    assert Pretrained(replace(SOURCE, stop=0.001), SMOKE.backbone, 3).steps == 1


def test_weights_of_others_are_given_and_the_same_for_every_seed():
    weights = Weights("torchvision:IMAGENET1K_V1")
    one, two = (Pretrained(weights, SMOKE.backbone, seed) for seed in (0, 5))
    assert one == two
    assert one.given
    assert one.cost() == 0
    assert not Pretrained(SOURCE, SMOKE.backbone, 0).given


def test_a_network_that_a_trial_leaves_comes_of_the_trials_own_training():
    left = Trained(fine_tune(measures=(Forgetting(),)))
    assert left.key == Trained(fine_tune()).key
    assert left.training == fine_tune()
    assert left.key != fine_tune().key
    assert chain().start.key == left.key
    assert chain().root == SOURCE
    with pytest.raises(UserError, match=r"source \(=.*probe, seed 0\): trains no network"):
        Trained(replace(fine_tune(), method=Probe()))


def test_features_are_needed_of_every_stored_split_once():
    needs = replace(fine_tune(), method=Probe()).needs()
    assert needs == replace(fine_tune(), method=KNN("fc6")).needs()
    assert [(f.network, f.split, f.maps) for f in needs] == [
        (fine_tune().start, split, None) for split in ("train", "validation", "test")
    ]
    photos = replace(fine_tune(), target=Target("pacs/photo", 24), method=Probe("pool5", grid=2))
    assert [(f.split, f.maps) for f in photos.needs()] == [("train", "pool5"), ("test", "pool5")], "validation is part"
    assert all(isinstance(f, Features) and f.cost() > 0 and f.needs() == (fine_tune().start,) for f in needs)
    assert replace(fine_tune(), source=None, method=KNN()).needs() == ()


def test_shapes_are_those_that_train_together():
    few = replace(TARGET, subset=replace(TARGET.subset, per_class=3))
    same = [fine_tune(seed=3), fine_tune(lr=0.1, weight_decay=0.1, momentum=0.0), replace(fine_tune(), target=few)]
    same.append(replace(fine_tune(), source=SMOKE.source_of()))
    assert {t.shape for t in same} == {fine_tune().shape}
    others = [
        fine_tune(steps=5),
        fine_tune(batch=8),
        chain(),
        replace(fine_tune(), method=FineTune(SMOKE.train, freeze="fc6")),
    ]
    assert len({t.shape for t in (*others, fine_tune())}) == 5
    assert {chain(seed).shape for seed in range(3)} == {chain().shape}


def test_source_task_keeps_the_classes_but_not_the_number_of_images():
    assert source_task(SMOKE.source_of(per_class=3)).target.subset == Subset(classes=25)


def test_labels_and_columns_tell_trials_apart():
    target = "synthetic:0 (20 classes, 15 a class)"
    start = f"synthetic:source (25 classes, 10 a class) > {target}, fine-tune lr 0.05"
    assert fine_tune().label == f"{start}, seed 0"
    assert fine_tune(lr=RATES).label.endswith("fine-tune lr 0.01|0.1, seed 0")
    assert chain().label == f"{start} > {target}, fine-tune lr 0.05, seed 0"
    columns = fine_tune().columns()
    names = ("source_per_class", "source_classes", "method", "lr", "via", "hold")
    assert [columns[name] for name in names] == [10, 25, "fine-tune", 0.05, None, None]
    held = replace(fine_tune(), method=FineTune(SMOKE.train, hold=Distillation(0.5))).columns()
    names = ("hold", "hold_strength", "hold_temperature")
    assert [held[name] for name in names] == ["distillation", 0.5, 2.0]
    assert chain().columns()["via"] == start
    assert replace(fine_tune(), source=replace(SOURCE, stop=0.5)).columns()["source_stop"] == 0.5
    assert "split" not in columns


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target("flower102", 32), r"data set \(=flower102\): must be one of .* did you mean flowers102\?"),
        (
            lambda: Target("synthetic:2", 32),
            r"data set \(=synthetic:2\): must be synthetic:source or synthetic:D with D from 0",
        ),
        (lambda: Target("folder:/nowhere", 32), r"not pinned yet; pin it with: transferlab data pin folder:/nowhere"),
        (lambda: Target("synthetic:0", 8), r"size \(=8\): must be 16 pixels or more"),
        (lambda: Subset(per_class=0), r"per_class \(=0\): must be a whole number above 0"),
        (lambda: Subset(classes=1), r"classes \(=1\): must be at least 2"),
        (lambda: Subset(depth=-1), r"depth \(=-1\): must be a whole number, 0 or more"),
        (
            lambda: Recipe(10, 8, 0.1, schedule="cosin"),
            r"schedule \(=cosin\): must be one of cosine, step; did you mean cosine\?",
        ),
        (lambda: Recipe(10, 8, 0.1, schedule="step"), r"milestones \(=None\): belong to the step schedule"),
        (lambda: Recipe(10, 8, 0.1, precision="fp16"), r"precision \(=fp16\): must be one of float32, bf16"),
        (lambda: Recipe(0, 8, 0.1), r"steps \(=0\): must be a whole number above 0"),
        (lambda: Recipe(10, 8, 1), r"lr \(=1\): must be a float between 0 and 100"),
        (lambda: AlexNet((1, 2, 3), (4, 5)), r"channels .*: must be five numbers or more"),
        (
            lambda: Source("synthetic:source", 24, replace(SMOKE.train, lr=RATES)),
            r"source lr .*: must be a single rate",
        ),
        (lambda: Grow(SMOKE.train, "wide", (4,)), r"how \(=wide\): must be one of widen, .*; did you mean widen\?"),
        (lambda: Grow(SMOKE.train, "widen", (4, 4)), r"units \(=\(4, 4\)\): widen takes a tuple of 1$"),
        (lambda: Grow(SMOKE.train, "widen", 8), r"units \(=8\): widen takes a tuple of 1$"),
        (lambda: Grow(SMOKE.train, "normalise", norm="batch"), r"norm \(=batch\): normalise takes none; leave it out"),
        (lambda: Grow(SMOKE.train, "deepen", (4,), copy=True), r"copy \(=True\): deepen takes none; leave it out"),
        (
            lambda: Grow(SMOKE.train, "widen", (4,), "none", scale=5.0),
            r"scale \(=5.0\): is that of l2, not of norm none; leave it out",
        ),
        (
            lambda: Grow(SMOKE.train, "widen", (4,), copy=True, spread=2.0),
            r"spread \(=2.0\): is that of random units beside FC7",
        ),
        (lambda: Grow(SMOKE.train, "widen-twice", (4, 0)), r"units \(=0\): must be a whole number above 0"),
        (
            lambda: Grow(SMOKE.train, "widen", (4,), scope="fc5-new"),
            r"scope \(=fc5-new\): must be one of .*; did you mean fc",
        ),
        (lambda: Grow(SMOKE.train, "widen", (4,), new_lr=0), r"new_lr \(=0\): must be above 0"),
        (lambda: Grow(SMOKE.train, "widen", (4,), unit_lr=-1.0), r"unit_lr \(=-1.0\): must be above 0"),
        (lambda: Grow(SMOKE.train, "widen", (4,), spread=0.0), r"spread \(=0.0\): must be above 0"),
        (lambda: Grow(SMOKE.train, "deepen", (4,), spread=2.0), r"spread \(=2.0\): is that of random units beside FC7"),
        (
            lambda: Trial(TARGET, Grow(SMOKE.train, "widen", (4,)), SMOKE.backbone, 0),
            r"source \(=None\): grow needs one",
        ),
        (lambda: Probe(strengths=(0.0,)), r"strengths .*: must be above 0"),
        (lambda: Trial(TARGET, Scratch(SMOKE.train), SMOKE.backbone, 0, SOURCE), r"source .*: scratch needs none"),
        (lambda: Trial(TARGET, Probe(), SMOKE.backbone, 0), r"source \(=None\): probe needs one"),
        (
            lambda: Trial(TARGET, Scratch(SMOKE.train), SMOKE.backbone, -1),
            r"seed \(=-1\): must be a whole number, 0 or more",
        ),
        (
            lambda: replace(fine_tune(), measures=(UnitTrace(),), method=Probe()),
            r"measures \(=1\): probe trains nothing",
        ),
        (
            lambda: replace(source_task(), target=TARGET),
            r"target \(=synthetic:0 .*\): source-task asks of the source's own images; see of_source",
        ),
        (
            lambda: Source("synthetic:source", 24, SMOKE.pretrain, stop=0.0),
            r"stop \(=0.0\): must be a share of the steps",
        ),
        (
            lambda: Source("synthetic:source", 24, SMOKE.pretrain, stop=1.5),
            r"stop \(=1.5\): must be a share of the steps",
        ),
        (
            lambda: Trial(replace(TARGET, size=32), Probe(), SMOKE.backbone, 0, SOURCE),
            r"size \(=32\): AlexNet keeps its source's, 24",
        ),
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
    for trial in (fine_tune(lr=RATES), fine_tune(), chain(), source_task(seed=3)):
        assert trial.canonical == canonical(trial.to_dict())
        assert trial.key == digest(canonical(trial.to_dict()))


def test_a_wide_search_is_made_once_for_each_choice(monkeypatch):
    """Four open fields, and not every choice of the rest for each choice of one."""
    made = []
    monkeypatch.setattr(
        Recipe, "__post_init__", lambda self, check=Recipe.__post_init__: (made.append(1), check(self))[1]
    )
    four = [OneOf(*(round(0.1 * n + 0.05, 2) for n in range(size))) for size in (4, 4, 4, 4)]
    replace(SMOKE.train, lr=four[0], weight_decay=four[1], momentum=four[2], label_smoothing=four[3])
    assert len(made) == 1 + 4**4
