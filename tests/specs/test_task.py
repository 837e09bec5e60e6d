"""What targets ask: keys stay as they were without a task, and what cannot answer refuses in one line."""

import json
from dataclasses import replace

import pytest

from transferlab.errors import UserError
from transferlab.measure import TrainAccuracy, WeightChange
from transferlab.methods import KNN, L2SP, CoTuning, FineTune, Probe, Scratch
from transferlab.specs import (
    AlexNet,
    Detection,
    ImageSet,
    MultiLabel,
    OneOf,
    Recipe,
    Source,
    Spec,
    Subset,
    Target,
    Trial,
)
from transferlab.specs.task import SINGLE_LABEL, SingleLabel

RECIPE = Recipe(10, 8, 0.1)
SEVERAL = MultiLabel()
SOURCE = Source("synthetic:source", 64, RECIPE)


def target(task=None, name="voc2007") -> Target:
    return Target(name, 64, task=task)


def trial(method, task=SEVERAL, source=SOURCE, **more) -> Trial:
    return Trial(target(task), method, AlexNet((8, 8, 8, 8, 8), (24, 16)), 0, source, **more)


def test_no_task_leaves_keys_as_they_were():
    assert '"task"' not in target().canonical
    assert Target("voc2007", 64, task=SingleLabel()) == target()
    assert target().asks == SINGLE_LABEL
    assert {"task"} & trial(FineTune(RECIPE), None).columns().keys() == set()


@pytest.mark.parametrize("task", [MultiLabel(), Detection()])
def test_a_task_is_part_of_the_key(task):
    found = target(task)
    assert f'"task":{{"kind":"{task.kind}"}}' in found.canonical
    assert Spec.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.images.fingerprint != target().images.fingerprint
    assert found.label == f"voc2007, {task.kind}"
    assert target(MultiLabel()).key != target(Detection()).key
    assert target(MultiLabel()).images == target(Detection()).images


def test_a_set_that_is_not_known_here_is_what_its_fingerprint_says():
    images = ImageSet("folder:/elsewhere", "0123456789abcdef")
    assert Target(images, 64, task=MultiLabel()).images == images


def test_what_a_record_must_have():
    assert trial(FineTune(RECIPE), None).asked == ("accuracy",)
    assert trial(FineTune(RECIPE)).asked == ("mean_ap",)
    assert trial(FineTune(RECIPE)).columns()["task"] == "multi-label"
    assert Detection().chosen_by == "validation_ap50"
    measured = trial(FineTune(RECIPE), measures=(WeightChange(),))
    assert measured.asked[0] == "mean_ap"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: trial(KNN()), "task (=multi-label): knn takes single-label targets only"),
        (lambda: trial(KNN(), Detection()), "task (=detection): knn takes single-label targets only"),
        (lambda: trial(Scratch(RECIPE), Detection(), None), "scratch takes single-label and multi-label targets only"),
        (lambda: trial(FineTune(RECIPE, hold=CoTuning(0.1))), "co-tuning takes single-label targets only"),
        (lambda: trial(FineTune(RECIPE, hold=OneOf(L2SP(0.1), CoTuning(0.1)))), "co-tuning takes single-label targets"),
        (
            lambda: trial(FineTune(RECIPE), measures=(TrainAccuracy(),)),
            "train-accuracy takes single-label targets only",
        ),
        (lambda: trial(Probe(pairs=True)), "pairs (=True): asks for one label an image"),
        (lambda: target(MultiLabel(), "mnist"), "data set (=mnist): no boxes of objects are noted; if it has some"),
        (lambda: replace(target(MultiLabel()), subset=Subset(tail=2.0)), "tail (=2.0): is that of sets with one label"),
    ],
)
def test_what_does_not_fit_is_refused(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_kept_head_is_that_of_the_same_task():
    first = trial(FineTune(RECIPE))
    assert replace(first, method=FineTune(RECIPE, keep_head=True), source=first)
    single = trial(FineTune(RECIPE), None)
    with pytest.raises(UserError, match="keep_head keeps that of a trial; start from one on the same classes"):
        replace(first, method=FineTune(RECIPE, keep_head=True), source=single)
