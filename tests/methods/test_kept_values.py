"""Numbers and keys as they were: a change that alters results must raise a version, and no key may change unnoticed.

``kept_values.json`` holds what a few steps of everything gave; processors agree on it to a thousandth. When a test here
fails and the change is meant, raise the `version` that the message names, and keep the new numbers with:
PYTHONPATH=tests python tests/methods/test_kept_values.py
"""

import copy
import functools
import inspect
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from small_world import context, give, run, shrink_world, small_world, trainings  # noqa: F401  (one is a fixture)

from transferlab.data import images
from transferlab.measure import (
    Barrier,
    Blocks,
    Borrowed,
    Forgetting,
    ForgettingCurve,
    Gallery,
    Selectivity,
    Similarity,
    TrainAccuracy,
    UnitTrace,
    WeightChange,
    metrics,
)
from transferlab.methods import (
    BSS,
    DELTA,
    KNN,
    L2SP,
    Concepts,
    CoTuning,
    Detect,
    Distillation,
    FineTune,
    Grow,
    JointFineTune,
    Probe,
    Retrieval,
    Scratch,
    SourceTask,
    TaskDistance,
)
from transferlab.methods.joint import Hardness, Selected
from transferlab.nets.build import build, new_head
from transferlab.select.descriptors import descriptors
from transferlab.select.selection import whole
from transferlab.specs import (
    AlexNet,
    Backbone,
    DeepFeatures,
    Duplicates,
    Features,
    FirstConvolutions,
    Gabor,
    ImageSet,
    Method,
    Neighbours,
    OneOf,
    Pretrained,
    Recipe,
    ResNet,
    Selection,
    Source,
    Spec,
    Subset,
    Target,
    Torchvision,
    Trained,
    Trial,
    Weights,
)
from transferlab.specs.serial import canonical
from transferlab.specs.task import Detection
from transferlab.train import read, solvers
from transferlab.train.fit import fit
from transferlab.train.run import Run, Stream

KEPT = Path(__file__).with_name("kept_values.json")
TOLERANCE = 2e-3
PACKAGE = Path(inspect.getfile(Spec)).parents[2]


class Case(NamedTuple):
    """A backbone, what is read and frozen of it, and rates so low that the processor's last bits do not grow."""

    backbone: Backbone
    size: int
    tap: str
    freeze: str
    source_lr: float
    lr: float


BACKBONES = {
    "alexnet": Case(AlexNet((8, 12, 16, 16, 12), (32, 24)), 24, "fc7", "conv3", 0.01, 0.01),
    "resnet": Case(ResNet(18), 16, "avgpool", "layer2", 3e-4, 5e-4),
    "squeezenet": Case(Torchvision("squeezenet1_0"), 64, "features.12", "features.5", 3e-4, 5e-4),
}
METHODS: dict[str, Callable[[Case], Method]] = {
    "source-task": lambda case: SourceTask(),
    "scratch": lambda case: Scratch(recipe(case)),
    "probe": lambda case: Probe(case.tap),
    "knn": lambda case: KNN(case.tap),
    "concepts": lambda case: Concepts(case.tap),
    "task-distance": lambda case: TaskDistance(case.tap, "synthetic:source", pixels=12, task2vec=True),
    "fine-tune": lambda case: FineTune(recipe(case)),
    "widened": lambda case: Grow(replace(recipe(case), lr=recipe(case).lr / 10), "widen", (6,)),
    "deepened": lambda case: Grow(
        replace(recipe(case), lr=recipe(case).lr / 10, augment="none"), "deepen", (6,), norm="none", scope="new"
    ),
    "frozen": lambda case: FineTune(recipe(case), head_lr=5.0, freeze=case.freeze),
    "l2-sp": lambda case: FineTune(recipe(case), hold=L2SP(20.0)),
    "distillation": lambda case: FineTune(recipe(case), hold=Distillation(5.0)),
    "delta": lambda case: FineTune(recipe(case), hold=DELTA(0.5)),
    "bss": lambda case: FineTune(recipe(case), hold=BSS(0.1)),
    "co-tuning": lambda case: FineTune(recipe(case), hold=CoTuning(5.0)),
    "stochastic": lambda case: FineTune(recipe(case), batch_norm="stochastic"),
    "layers apart": lambda case: FineTune(recipe(case), layer_decay=0.5, unfreeze=0.6),
    "auto-rgn": lambda case: FineTune(recipe(case), auto_rgn=True),
    "from the probe": lambda case: FineTune(recipe(case), probe=1.0),
    "second stage": lambda case: FineTune(recipe(case), keep_head=True),
    "joint": lambda case: JointFineTune(recipe(case), "synthetic:source", nearest(case), pool_subset=Subset(classes=6)),
    "joint, apart": lambda case: JointFineTune(recipe(case), "synthetic:0.2", source_weight=2.0, batch_norm="apart"),
}
DISTANCES = (
    *("frechet", "mmd", "emd_similarity", "task2vec_distance"),
    *("leep", "nce", "logme", "h_score", "regularised_h_score", "transrate"),
)
GABOR = Gabor(2, 2, lowest=0.2, bins=8)
REGULARISERS = {"l2-sp": L2SP, "distillation": Distillation, "co-tuning": CoTuning, "delta": DELTA, "bss": BSS}
LACKING = {("squeezenet", m) for m in ("distillation", "stochastic")}  # its head is a convolution; it has no BatchNorm
OF_ALEXNET = (
    "delta",
    "bss",
    "layers apart",
    "auto-rgn",
    "from the probe",
    "second stage",
)  # alone: other networks have nothing of their own here
MEASURES = {  # and of which training
    "blocks": (Blocks(), "widened"),
    "forgetting": (Forgetting(), "widened"),
    "train-accuracy": (TrainAccuracy(), "widened"),
    "unit-trace": (UnitTrace(looks=3), "widened"),
    "weight-change": (WeightChange(), "fine-tune"),
    "selectivity": (Selectivity(), "fine-tune"),
    "similarity": (Similarity(images=60, batch=30, shares=(0.5,)), "fine-tune"),
    "forgetting-curve": (ForgettingCurve(images=60, shares=(0.0, 0.5)), "fine-tune"),
    "gallery": (Gallery(units=2, images=2, shown=2), "fine-tune"),
    "barrier": (Barrier(3), "second stage"),
}


def recipe(case: Case) -> Recipe:
    return Recipe(steps=4, batch=8, lr=case.lr, schedule="step", milestones=(0.6,), weight_decay=0.05)


def trial(backbone: str, method: str) -> Trial:
    case = BACKBONES[backbone]
    source = Source("synthetic:source", case.size, Recipe(steps=4, batch=8, lr=case.source_lr), Subset(classes=6))
    if method in ("source-task", "concepts"):
        return Trial.of_source(source, METHODS[method](case), case.backbone, seed=1)
    target = Target("synthetic:0.5", case.size, Subset(classes=8, per_class=3))
    if method == "second stage":
        source = replace(trial(backbone, "frozen"), method=replace(METHODS["frozen"](case), freeze="representation"))
    return Trial(target, METHODS[method](case), case.backbone, 1, None if method == "scratch" else source)


@functools.cache
def pretrained(backbone: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """The network that a source leaves, not rounded, and the losses of its training."""
    with tempfile.TemporaryDirectory() as root, trainings() as found:
        run(Path(root), trial(backbone, "source-task"))
    (seen,) = found
    return seen.run.trained, seen.fitted.losses


def size_of(x: torch.Tensor) -> list[float]:
    """Mean size and spread of numbers."""
    return [x.double().abs().mean().item(), x.double().std().item()]


# ------------------------------------------------------------------------------------------------- what is computed


def decoding() -> list[float]:
    """The synthetic world, and a picture made smaller."""
    picture = Image.radial_gradient("L").convert("RGB").crop((10, 60, 240, 200))
    drawn = [images.load(ImageSet(f"synthetic:{d}"), 24).splits["train"].pixels[::79] for d in ("source", "0", "0.6")]
    pixels = torch.cat([*drawn, torch.from_numpy(images.shrink(picture, 24).copy())[None]]).double()
    return [*pixels.mean((1, 2)).flatten().tolist(), *pixels.std((1, 2, 3)).tolist()]


def drawing() -> list[float]:
    """Which images and classes are drawn."""
    target = Target("synthetic:0", 24, Subset(exclude=("lobed-2", "ring-0-0"), classes=9, per_class=2, depth=2))
    drawn = [images.target_sample(target, split, 3) for split in ("train", "validation", "test")]
    drawn.append(images.target_sample(Target("synthetic:0", 24, Subset(classes=9, images=31, lift=1)), "train", 3))
    return [float(v) for s in drawn for v in (s.rows.sum(), (s.rows * s.labels).sum(), s.classes)]


def fresh(backbone: str) -> list[float]:
    """What a network says before any training."""
    case = BACKBONES[backbone]
    sample = images.target_sample(trial(backbone, "scratch").target, "test", 1)
    net = build(case.backbone, case.size, 8, seed=1)
    return size_of(read.predict(net, sample)) + size_of(read.read(net, sample, [case.tap])[case.tap])


def results(backbone: str, method: str) -> list[float]:
    """What a method gives: losses of training and what the network says in the end, or the weights of the probe."""
    asked = trial(backbone, method)
    net = None if method == "scratch" else pretrained(backbone)[0]
    if asked.before:  # a first stage's network: the source's under a head for the target
        new_head(net := copy.deepcopy(net), 8, seed=5)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as root, trainings() as found:
        seen = []

        def spy(module, name: str) -> None:
            really = getattr(module, name)
            patch.setattr(module, name, lambda *a, **k: (out := really(*a, **k), seen.append(out))[0])

        spy(metrics if asked.recipe else read, "predict")
        spy(solvers, "ridge")
        measured = run(Path(root), asked, net)
    if method == "concepts":
        return [measured["accuracy"], *(v for group in measured["groups"] for v in group[1:])]
    if method == "task-distance":
        return [measured[name] for name in DISTANCES]
    if method == "knn":
        return [measured["accuracy"], measured["accuracy_among"], *map(float, measured["right_among"])]
    if method == "probe":
        ((weights, biases),) = seen
        return [*size_of(weights), *size_of(biases)]
    losses = found[0].fitted.losses if asked.recipe else pretrained(backbone)[1]
    return [*losses.tolist(), *size_of(seen[0])]  # on the test images, which are read first


def scenes() -> list[float]:
    """The drawn world's images of several objects, and their boxes."""
    part = images.load(ImageSet("synthetic:0.3").annotated, 32).splits["train"]
    return [*size_of(part.pixels[::40]), *part.labels[::40].astype(float).mean((0, 1)).tolist()]


def detector() -> list[float]:
    """Losses of a detector's training, and its weights afterwards."""
    asked = trial("alexnet", "fine-tune")
    target = replace(asked.target, task=Detection())
    asked = replace(asked, target=target, method=Detect(recipe(BACKBONES["alexnet"])))
    net = pretrained("alexnet")[0]
    with tempfile.TemporaryDirectory() as root, trainings() as found:
        run(Path(root), asked, net)
    parts = ("backbone.body.conv5.conv", "backbone.fpn", "rpn.head", "roi_heads")
    net = found[0].run.trained
    weights = [torch.cat([p.detach().flatten() for p in net.get_submodule(part).parameters()]) for part in parts]
    return [*found[0].fitted.losses.tolist(), *(v for weight in weights for v in size_of(weight))]


def several_labels() -> list[float]:
    """Losses of training where images have several labels, and linear classifiers of each class."""
    given = images.target_sample(Target("synthetic:0", 24, Subset(classes=8)), "train", 1)
    labels = ((given.labels[:, None] * torch.tensor([1, 3, 5]) + torch.arange(3)) % 4 < 2).float()
    labels[::5, 1] = torch.nan
    case = BACKBONES["alexnet"]
    new_head(net := copy.deepcopy(pretrained("alexnet")[0]), 3, seed=5)
    sample = replace(given, labels=labels, classes=3)
    losses = fit(Run(net, (Stream(sample, 1),), Recipe(4, 8, case.lr), 1)).losses.tolist()
    x = read.read(net, sample, [case.tap])[case.tap]
    solved = [getattr(solvers, name)(x, labels, 3, (0.1,)) for name in ("ridge", "logistic", "squared_hinge")]
    return losses + [v for pair in solved for part in pair for v in size_of(part[0])]


def measured(name: str) -> list[float]:
    """What a measure puts on record: its numbers, but counts and places."""
    measure, method = MEASURES[name]
    asked, net = replace(trial("alexnet", method), measures=(measure,)), pretrained("alexnet")[0]
    if asked.before:
        new_head(net := copy.deepcopy(net), 8, seed=5)
    with tempfile.TemporaryDirectory() as root:
        found = run(Path(root), asked, net)
    return numbers([found[column] for column in measure.columns])


def numbers(value: float | list) -> list[float]:
    """All numbers; of a row with words, which says what is where, those that were measured."""
    if not isinstance(value, list):
        return [float(value)]
    told = any(isinstance(each, str) for each in value)
    return [number for each in value if not told or isinstance(each, float) for number in numbers(each)]


def nearest(case: Case) -> Selected:
    """Images that deep features find alike: responses to filters are equal too often, and rounding decides then."""
    (backbone,) = (name for name, one in BACKBONES.items() if one is case)
    return Selected(DeepFeatures(trial(backbone, "probe").start), 2, 300, 2)


def ratios() -> list[float]:
    """How far what is borrowed is from who borrows."""
    asked = trial("alexnet", "joint")
    asked = replace(asked, method=replace(asked.method, pool_subset=Subset()), measures=(Borrowed(3),))
    with tempfile.TemporaryDirectory() as root:
        found = run(Path(root), asked, pretrained("alexnet")[0])
    return [found["colour_ratio"], found["deep_ratio"]]


def retrieved() -> list[float]:
    """How well parts of images find others, and how far those are."""
    method = Retrieval(components=4, whiten=True, levels=2)
    with tempfile.TemporaryDirectory() as root:
        found = run(Path(root), replace(trial("alexnet", "probe"), method=method), pretrained("alexnet")[0])
    return [found["map"], found["validation_map"], *chain.from_iterable(found["answered_distances"])]


def features(backbone: str) -> list[float]:
    """What a frozen network makes of a split, at some layers."""
    asked = trial(backbone, "probe")
    with tempfile.TemporaryDirectory() as root:
        run(Path(root), asked, pretrained(backbone)[0])
        found = context(Path(root)).arrays(asked.features()[0])
    return [v for value in list(found.values())[::3] for v in size_of(value)]


def hardness() -> list[float]:
    """What a next round adds for each image."""
    asked = trial("alexnet", "joint")
    with tempfile.TemporaryDirectory() as root:
        give(Path(root), asked.start, pretrained("alexnet")[0])
        run(Path(root), replace(asked, source=asked, method=replace(asked.method, more_neighbours=True)))
        return context(Path(root)).arrays(Hardness(asked))["added"].double().tolist()


def described(selection: Selection) -> list[float]:
    """Descriptors of some images, and the edges of the bins of histograms."""
    sample = whole(ImageSet("synthetic:0.5"), 24)
    with tempfile.TemporaryDirectory() as root:
        give(Path(root), trial("alexnet", "probe").start, pretrained("alexnet")[0])
        how = descriptors(selection, 24, context(Path(root)), sample)
        edges = getattr(how, "edges", ())[-1:]
        return [*size_of(torch.cat(list(how.of(sample)))[::7]), *chain.from_iterable(map(size_of, edges))]


def looked_up(made: Neighbours | Duplicates, name: str) -> list[float]:
    """What is found in a pool."""
    with tempfile.TemporaryDirectory() as root:
        give(Path(root), trial("alexnet", "probe").start, pretrained("alexnet")[0])
        return size_of(context(Path(root)).arrays(made)[name])


SETS = ("synthetic:source", "synthetic:0", 24)
CASES = {
    "image sets": (ImageSet, decoding),
    "subsets": (Subset, drawing),
    **{f"fresh {b}": (type(BACKBONES[b].backbone), functools.partial(fresh, b)) for b in BACKBONES},
    **{
        f"{b} {m}": (
            REGULARISERS.get(m) or type(METHODS[m](BACKBONES[b])),
            functools.partial(results, b, m),
        )
        for b in BACKBONES
        for m in METHODS
        if (b, m) not in LACKING
        if b == "alexnet" or m not in OF_ALEXNET
    },
    **{f"alexnet {m}": (type(measure), functools.partial(measured, m)) for m, (measure, _) in MEASURES.items()},
    "alexnet detect": (Detect, detector),
    "scenes": (ImageSet, scenes),
    "alexnet several labels": (FineTune, several_labels),
    "alexnet borrowed": (Borrowed, ratios),
    "alexnet retrieval": (Retrieval, retrieved),
    "alexnet hardness": (Hardness, hardness),
    "gabor": (Gabor, functools.partial(described, GABOR)),
    "first convolutions": (
        FirstConvolutions,
        lambda: described(FirstConvolutions(trial("alexnet", "probe").start, bins=8)),
    ),
    "deep features": (DeepFeatures, lambda: described(DeepFeatures(trial("alexnet", "probe").start))),
    "neighbours": (
        Neighbours,
        lambda: looked_up(Neighbours(nearest(BACKBONES["alexnet"]).selection, *SETS, 5), "distances"),
    ),
    "duplicates": (Duplicates, functools.partial(looked_up, Duplicates(*SETS, bits=24), "bits")),
    **{f"{b} features": (Features, functools.partial(features, b)) for b in ("alexnet", "resnet")},
}


def as_kept(cls: type[Spec], compute) -> dict:
    return {"version": cls.version, "values": [float(f"{v:.6g}") for v in compute()]}


@pytest.mark.parametrize("name", CASES)
def test_values_are_as_they_were(name):
    cls, compute = CASES[name]
    kept, found = json.loads(KEPT.read_text())[name], as_kept(cls, compute)
    where = Path(inspect.getfile(cls)).relative_to(PACKAGE)
    keep = f"PYTHONPATH=tests python {Path(__file__).relative_to(Path(__file__).parents[2])}"
    assert found["version"] == kept["version"], f"{cls.__name__} has a new version: keep its values with: {keep}"
    assert found["values"] == pytest.approx(kept["values"], rel=TOLERANCE), (
        f"results have changed: raise `version` of {cls.__name__} in {where} (but if image sets, subsets or fresh "
        f"networks have changed too, of these only), then keep the new values with: {keep}"
    )


def test_values_are_kept_for_everything():
    assert json.loads(KEPT.read_text()).keys() == CASES.keys()
    own = [cls for cls in Spec.kinds.values() if cls.__module__.startswith("transferlab.")]  # none of other tests
    versioned = {cls for cls in own if cls.version is not None}
    assert {cls for cls, _ in CASES.values()} == versioned


def test_kept_values_tell_methods_apart():
    """A method that did what another does would not be noticed otherwise."""
    kept = [tuple(entry["values"]) for entry in json.loads(KEPT.read_text()).values()]
    assert len(set(kept)) == len(kept)


# ------------------------------------------------------------------------------------------------------------- keys

RECIPE = Recipe(
    steps=200,
    batch=64,
    lr=0.1,
    schedule="step",
    warmup=0.1,
    milestones=(0.5, 0.75),
    momentum=0.8,
    weight_decay=1e-4,
    label_smoothing=0.0,
    augment="none",
    precision="bf16",
)
PART = Subset(exclude=("ring",), classes=("lobed-0-0", "boxy-1-2"), per_class=20, depth=2, tail=4.0)
SOURCE = Source(
    "synthetic:source",
    32,
    Recipe(steps=3200, batch=128, lr=0.1),
    Subset(classes=50, images=125, lift=1),
    grey=True,
    stop=0.5,
)
FULL = Trial(
    target=Target("synthetic:0.5", 32, PART),
    method=FineTune(RECIPE, head_lr=5.0, freeze="conv2", hold=Distillation(0.5), batch_norm="frozen"),
    backbone=AlexNet((32, 48, 64, 64, 48), (256, 128), norm="none"),
    seed=7,
    source=SOURCE,
    measures=(Forgetting(), Blocks((64, 64))),
)
TEXT = (
    '{"backbone":{"channels":[32,48,64,64,48],"hidden":[256,128],"kind":"alexnet","norm":"none","version":1},'
    '"kind":"trial","method":{"batch_norm":"frozen","freeze":"conv2","head_lr":5.0,"hold":{"kind":"distillation",'
    '"strength":0.5,"temperature":2.0,"version":1},"kind":"fine-tune","recipe":{"augment":"none","batch":64,'
    '"kind":"recipe","label_smoothing":0.0,"lr":0.1,"milestones":[0.5,0.75],"momentum":0.8,"precision":"bf16",'
    '"schedule":"step","steps":200,"warmup":0.1,"weight_decay":0.0001},"version":1},"seed":7,'
    '"source":{"grey":true,"images":{"fingerprint":"world-1","kind":"image-set","name":"synthetic:source",'
    '"version":1},"kind":"source","recipe":{"augment":"crop-flip","batch":128,"kind":"recipe",'
    '"label_smoothing":0.1,"lr":0.1,"momentum":0.9,"precision":"float32","schedule":"cosine","steps":3200,'
    '"warmup":0.2,"weight_decay":0.0005},"size":32,"stop":0.5,"subset":{"classes":50,"images":125,'
    '"kind":"subset","lift":1,"version":1}},"target":{"images":{"fingerprint":"world-1","kind":"image-set",'
    '"name":"synthetic:0.5","version":1},"kind":"target","size":32,"subset":{"classes":["lobed-0-0","boxy-1-2"],'
    '"depth":2,"exclude":["ring"],"kind":"subset","per_class":20,"tail":4.0,"version":1}}}'
)
KEY = "19f774f71eb972e3"
SOURCE_KEY = "92577a9652c975ce"


def test_the_key_of_a_trial_with_every_field():
    """Records are found by these keys: were they to change, every published record would be lost."""
    assert canonical(FULL.to_dict()) == FULL.canonical == TEXT
    assert FULL.key == KEY
    assert Pretrained(SOURCE, FULL.backbone, 7).key == FULL.start.key == SOURCE_KEY


def test_the_full_trial_has_every_field():
    def empty(spec: Spec) -> list[str]:
        values = {
            f"{spec.kind}.{name}": getattr(spec, name) for name in spec.__dataclass_fields__.keys() - {*spec.aside}
        }
        inner = [name for value in values.values() if isinstance(value, Spec) for name in empty(value)]
        return [name for name, value in values.items() if value in (None, ())] + inner

    others = {f"fine-tune.{name}" for name in ("keep_head", "layer_decay", "unfreeze", "auto_rgn", "probe")}
    others |= {"subset.images", "subset.lift", "subset.tail", "subset.exclude", "subset.per_class", "subset.depth"}
    assert set(empty(FULL)) <= others | {"recipe.milestones", "target.task"}
    assert not {*PART.to_dict(), *SOURCE.subset.to_dict()} ^ {*Subset.__dataclass_fields__, "kind", "version"}


FIRST = Trial(
    Target("synthetic:0", 24),
    FineTune(Recipe(4, 8, 0.1)),
    AlexNet((1, 2, 3, 4, 5), (6, 7)),
    1,
    replace(SOURCE, size=24),
)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (SourceTask(), '{"kind":"source-task","version":1}'),
        (Probe(), '{"kind":"probe","strengths":[0.0001,0.001,0.01,0.1,1.0,10.0],"tap":"fc7","version":1}'),
        (
            Probe("fc6", (1.0,), "logistic", 2),
            '{"grid":2,"kind":"probe","solver":"logistic","strengths":[1.0],"tap":"fc6","version":1}',
        ),
        (KNN(), '{"among":5,"kind":"knn","tap":"fc7","version":1}'),
        (Concepts(), '{"kind":"concepts","tap":"fc7","version":1}'),
        (DELTA(0.1), '{"kind":"delta","strength":0.1,"version":1}'),
        (BSS(0.1), '{"k":1,"kind":"bss","strength":0.1,"version":1}'),
        (L2SP(0.1), '{"kind":"l2-sp","strength":0.1,"version":1}'),
        (Forgetting(), '{"kind":"forgetting","version":1}'),
        (Blocks((3, 4)), '{"kind":"blocks","units":[3,4],"version":1}'),
        (UnitTrace(), '{"kind":"unit-trace","looks":21,"version":1}'),
        (OneOf(0.1, 0.2), '{"kind":"one-of","options":[0.1,0.2],"seeds":[0,1,2,3]}'),
        (ResNet(), '{"depth":18,"kind":"resnet","stem":"small","version":1}'),
        (Torchvision("squeezenet1_0"), '{"kind":"torchvision","name":"squeezenet1_0","version":1}'),
        (
            Weights("torchvision:IMAGENET1K_V1"),
            '{"fingerprint":"IMAGENET1K_V1","kind":"weights","name":"torchvision:IMAGENET1K_V1"}',
        ),
        (Weights("file:net.pt", "0123"), '{"fingerprint":"0123","kind":"weights"}'),
        (ImageSet("folder:/here", "0123"), '{"fingerprint":"0123","kind":"image-set","version":1}'),
        (Subset(), '{"kind":"subset","version":1}'),
    ],
    ids=lambda x: x.kind if isinstance(x, Spec) else "",
)
def test_the_text_of_other_kinds(spec, text):
    assert canonical(spec.to_dict()) == spec.canonical == text


def test_the_text_of_ways_to_fine_tune():
    """A field that is left out leaves keys as they were."""
    tuned = FineTune(Recipe(4, 8, 0.1), keep_head=True, layer_decay=0.5, unfreeze=0.25)
    text = tuned.canonical.replace(tuned.recipe.canonical, "R")
    assert text == (
        '{"head_lr":3.0,"keep_head":true,"kind":"fine-tune","layer_decay":0.5,"recipe":R,"unfreeze":0.25,"version":1}'
    )
    assert FineTune(Recipe(4, 8, 0.1), auto_rgn=True).canonical.startswith('{"auto_rgn":true,"head_lr":3.0,"kind"')
    probed = FineTune(Recipe(4, 8, 0.1), probe=0.5).canonical
    assert '"probe":0.5,"recipe":{' in probed
    assert '"probe"' not in FineTune(Recipe(4, 8, 0.1)).canonical


def test_the_text_of_what_growth_and_chains_and_artefacts_are():
    grow = Grow(Recipe(4, 8, 0.1), "widen", (6,), "batch", copy=True, scope="new", unit_lr=3.0)
    rest = grow.canonical.replace(grow.recipe.canonical, "R")
    assert rest == (
        '{"copy":true,"how":"widen","kind":"grow","new_lr":10.0,"norm":"batch","recipe":R,"scope":"new","unit_lr":3.0,'
        '"units":[6],"version":1}'
    )
    second = replace(FIRST, source=FIRST)
    assert second.canonical == FIRST.canonical.replace(FIRST.source.canonical, FIRST.canonical)
    assert Trained(FIRST).canonical == f'{{"kind":"trained","trial":{FIRST.canonical}}}'
    made = Pretrained(FIRST.source, FIRST.backbone, 1)
    assert made.canonical == (
        f'{{"backbone":{FIRST.backbone.canonical},"kind":"pretrained","seed":1,"source":{FIRST.source.canonical}}}'
    )
    features = Features(made, FIRST.target.images, 24, "train").canonical
    images = FIRST.target.images.canonical
    assert features == (
        f'{{"images":{images},"kind":"features","network":{made.canonical},"size":24,"split":"train","version":1}}'
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("TRANSFERLAB_CACHE", folder)
        shrink_world(patch)
        new = {name: as_kept(*case) for name, case in CASES.items()}
    KEPT.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in new.items()) + "\n}\n")
