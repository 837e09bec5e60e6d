"""Numbers and keys as they were: a change that alters results must raise a version, and no key may change unnoticed.

``kept_values.json`` holds what a few steps of everything gave; processors agree on it to a thousandth. When a test here
fails and the change is meant, raise the `version` that the message names, and keep the new numbers with: python
tests/methods/test_kept_values.py
"""

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from small_world import shrink_world, small_world  # noqa: F401  (a fixture for the whole module)

from transferlab import methods
from transferlab.backbones import AlexNet, Backbone, ResNet, Torchvision
from transferlab.data import images
from transferlab.methods import probe, scratch
from transferlab.nets.build import build
from transferlab.serial import Spec, canonical
from transferlab.specs import (
    Concepts,
    FineTune,
    Grow,
    ImageSet,
    Method,
    Neighbours,
    Probe,
    Recipe,
    Scratch,
    Source,
    SourceTask,
    Subset,
    Target,
    Trial,
    Weights,
    source_key,
)
from transferlab.train.fit import fit_together
from transferlab.train.predict import features, predict

KEPT = Path(__file__).with_name("kept_values.json")
TOLERANCE = 2e-3
CPU = torch.device("cpu")


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
    "neighbours": lambda case: Neighbours(case.tap),
    "concepts": lambda case: Concepts(case.tap),
    "fine-tune": lambda case: FineTune(recipe(case)),
    "widened": lambda case: Grow(replace(recipe(case), lr=recipe(case).lr / 10), "widen", (6,)),
    "deepened": lambda case: Grow(replace(recipe(case), lr=recipe(case).lr / 10, augment="none"), "deepen", (6,), norm="none", scope="new"),
    "frozen": lambda case: FineTune(recipe(case), head_lr=5.0, freeze=case.freeze),
}


def recipe(case: Case) -> Recipe:
    return Recipe(steps=4, batch=8, lr=case.lr, schedule="step", milestones=(0.6,), weight_decay=0.05)


def trial(backbone: str, method: str) -> Trial:
    case = BACKBONES[backbone]
    source = Source("synthetic:source", case.size, Recipe(steps=4, batch=8, lr=case.source_lr), Subset(classes=6))
    if method in ("source-task", "concepts"):
        return replace(Trial.of_source(source, case.backbone, seed=1), method=METHODS[method](case))
    target = Target("synthetic:0.5", case.size, Subset(classes=8, per_class=3))
    return Trial(target, METHODS[method](case), case.backbone, 1, None if method == "scratch" else source)


@functools.cache
def pretrained(backbone: str) -> tuple[torch.nn.Module, torch.Tensor]:
    asked = trial(backbone, "probe")
    ready = scratch.prepare_source(asked.source, asked.backbone, asked.seed, CPU)
    return ready.net, fit_together([ready])[0]


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
    return size_of(predict(net, sample)) + size_of(features(net, sample, [case.tap])[case.tap])


def results(backbone: str, method: str) -> list[float]:
    """What a method gives: losses of training and what the network says in the end, or the weights of the probe."""
    asked = trial(backbone, method)
    net, losses = copy.deepcopy(pretrained(backbone)[0]), torch.empty(0)
    with pytest.MonkeyPatch.context() as patch:
        seen = []

        def spy(module, name: str) -> None:
            really = getattr(module, name)
            patch.setattr(module, name, lambda *a, **k: (out := really(*a, **k), seen.append(out))[0])

        spy(methods, "fit_together")
        spy(scratch, "predict")
        spy(methods.source_task, "predict")
        spy(probe, "ridge")
        measured = methods.run(asked, None if method == "scratch" else net, CPU)
    if method == "concepts":
        return [measured["accuracy"], *(v for group in measured["groups"] for v in group[1:])]
    if method == "neighbours":
        return [measured["accuracy"], measured["accuracy_among"], *map(float, measured["right_among"])]
    if method == "probe":
        ((weights, biases),) = seen
        return [*size_of(weights), *size_of(biases)]
    if method == "source-task":
        (logits,) = seen
        losses = pretrained(backbone)[1]
    else:
        (losses,), logits = seen
    return [*losses.tolist(), *size_of(logits)]


CASES = {
    "image sets": (ImageSet, decoding),
    "subsets": (Subset, drawing),
    **{f"fresh {b}": (type(BACKBONES[b].backbone), functools.partial(fresh, b)) for b in BACKBONES},
    **{f"{b} {m}": (type(METHODS[m](BACKBONES[b])), functools.partial(results, b, m)) for b in BACKBONES for m in METHODS},
}


def as_kept(cls: type[Spec], compute) -> dict:
    return {"version": cls.version, "values": [float(f"{v:.6g}") for v in compute()]}


@pytest.mark.parametrize("name", CASES)
def test_values_are_as_they_were(name):
    cls, compute = CASES[name]
    kept, found = json.loads(KEPT.read_text())[name], as_kept(cls, compute)
    where = f"transferlab/{'backbones' if cls in (AlexNet, ResNet, Torchvision) else 'specs'}.py"
    keep = f"python {Path(__file__).relative_to(Path(__file__).parents[2])}"
    assert found["version"] == kept["version"], f"{cls.__name__} has a new version: keep its values with: {keep}"
    assert found["values"] == pytest.approx(kept["values"], rel=TOLERANCE), (
        f"results have changed: raise `version` of {cls.__name__} in {where} (but if image sets, subsets or fresh networks "
        f"have changed too, of these only), then keep the new values with: {keep}"
    )


def test_values_are_kept_for_everything():
    assert json.loads(KEPT.read_text()).keys() == CASES.keys()
    versioned = {cls for cls in Spec.kinds.values() if cls.version is not None}
    assert {cls for cls, _ in CASES.values()} == versioned


def test_kept_values_tell_methods_apart():
    """A method that did what another does would not be noticed otherwise."""
    kept = [tuple(entry["values"]) for entry in json.loads(KEPT.read_text()).values()]
    assert len(set(kept)) == len(kept)


# ------------------------------------------------------------------------------------------------------------- keys

FULL = Trial(
    target=Target("synthetic:0.5", 32, Subset(exclude=("ring",), classes=("lobed-0-0", "boxy-1-2"), per_class=20, depth=2)),
    method=FineTune(
        Recipe(
            steps=200,
            batch=64,
            lr=(0.01, 0.1),
            schedule="step",
            warmup=0.1,
            milestones=(0.5, 0.75),
            momentum=0.8,
            weight_decay=1e-4,
            label_smoothing=0.0,
            augment="none",
            precision="bf16",
        ),
        head_lr=5.0,
        freeze="conv2",
    ),
    backbone=AlexNet((32, 48, 64, 64, 48), (256, 128)),
    seed=7,
    source=Source("synthetic:source", 32, Recipe(steps=3200, batch=128, lr=0.1), Subset(classes=50, per_class=125)),
    split="validation",
)
TEXT = (
    '{"backbone":{"channels":[32,48,64,64,48],"hidden":[256,128],"kind":"alexnet","version":1},"kind":"trial",'
    '"method":{"freeze":"conv2","head_lr":5.0,"kind":"fine-tune","recipe":{"augment":"none","batch":64,"kind":"recipe",'
    '"label_smoothing":0.0,"lr":[0.01,0.1],"milestones":[0.5,0.75],"momentum":0.8,"precision":"bf16","schedule":"step",'
    '"steps":200,"warmup":0.1,"weight_decay":0.0001},"version":1},"seed":7,'
    '"source":{"images":{"fingerprint":"world-1","kind":"image-set","name":"synthetic:source","version":1},"kind":"source",'
    '"recipe":{"augment":"crop-flip","batch":128,"kind":"recipe","label_smoothing":0.1,"lr":0.1,"momentum":0.9,'
    '"precision":"float32","schedule":"cosine","steps":3200,"warmup":0.2,"weight_decay":0.0005},"size":32,'
    '"subset":{"classes":50,"kind":"subset","per_class":125,"version":1}},"split":"validation",'
    '"target":{"images":{"fingerprint":"world-1","kind":"image-set","name":"synthetic:0.5","version":1},"kind":"target","size":32,'
    '"subset":{"classes":["lobed-0-0","boxy-1-2"],"depth":2,"exclude":["ring"],"kind":"subset","per_class":20,"version":1}}}'
)
KEY = "84858dcfc468fd0d"
SOURCE_KEY = "938270bbc2e95f39"


def test_the_key_of_a_trial_with_every_field():
    """Records are found by these keys: were they to change, every published record would be lost."""
    assert canonical(FULL.to_dict()) == TEXT
    assert FULL.key == KEY
    assert source_key(FULL) == SOURCE_KEY


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (SourceTask(), '{"kind":"source-task","version":1}'),
        (Probe(), '{"kind":"probe","strengths":[0.0001,0.001,0.01,0.1,1.0,10.0],"tap":"fc7","version":1}'),
        (ResNet(), '{"depth":18,"kind":"resnet","stem":"small","version":1}'),
        (Torchvision("squeezenet1_0"), '{"kind":"torchvision","name":"squeezenet1_0","version":1}'),
        (Weights("file:net.pt", "0123"), '{"fingerprint":"0123","kind":"weights","name":"file:net.pt"}'),
        (Subset(), '{"kind":"subset","version":1}'),
    ],
    ids=lambda x: x.kind if isinstance(x, Spec) else "",
)
def test_the_text_of_other_kinds(spec, text):
    assert canonical(spec.to_dict()) == text


if __name__ == "__main__":
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as world:
        shrink_world(world)
        new = {name: as_kept(*case) for name, case in CASES.items()}
    KEPT.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in new.items()) + "\n}\n")
