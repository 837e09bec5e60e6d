"""Features on disk: read once for all, the same as those read directly, made again when damaged."""

import multiprocessing
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_world import WORLD, shrink_world, small_world  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import load as load_images
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods import KNN, Probe
from transferlab.nets.build import build
from transferlab.nets.taps import taps
from transferlab.run import context as module
from transferlab.run.context import Context
from transferlab.specs import AlexNet, Features, ImageSet, Recipe, Source, Subset, Target, Trial, Weights
from transferlab.store import Store
from transferlab.train.read import read as read_directly

SMALL = AlexNet((4, 4, 4, 4, 4), (8, 6))
CPU = torch.device("cpu")
COUNTS = {split: 100 * each for split, each in WORLD["target"].items()}
SOURCE = Source("synthetic:source", 24, Recipe(steps=1, batch=1, lr=0.1))
WEIGHTS = Weights("file:net.pt", "0123")


def trial(tap="fc7", seed=0, source=SOURCE, per_class=3, name="synthetic:0", **method) -> Trial:
    target = Target(name, 24, Subset(classes=6, per_class=per_class))
    return Trial(target, Probe(tap, **method), SMALL, seed, source)


class Loader:
    """Loads a network, and counts how often and how many images go through it."""

    def __init__(self, seed: int = 0) -> None:
        self.net, self.loads, self.seen = build(SMALL, 24, 5, seed), 0, 0
        self.net.register_forward_pre_hook(self.count)

    def count(self, module, inputs) -> None:
        self.seen += len(inputs[0])

    def __call__(self):
        self.loads += 1
        return self.net


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def read(root: Path, asked: Trial, load, split: str = "test", grid: int = 1) -> torch.Tensor:
    """Return features as a trial gets them, of a network that `load` returns."""
    context = Context(CPU, Store(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "load", lambda *_: load())
        sample = context.sample(asked.target, split, asked.seed)
        return context.features(asked, sample, asked.method.tap, grid)


def direct(asked: Trial, load: Loader, split: str = "test", grid: int = 1) -> torch.Tensor:
    sample = Context(CPU, None).sample(asked.target, split, asked.seed)
    return read_directly(load.net, sample, [asked.method.tap], grid)[asked.method.tap]


def files(root: Path) -> list[Path]:
    return sorted((root / "features").glob("*"))


@pytest.fixture
def load(monkeypatch) -> Loader:
    """What a lab gets instead of networks."""
    loader = Loader()
    monkeypatch.setattr(Context, "load", lambda *_: loader())
    monkeypatch.setattr(
        Store, "lacks", lambda self, made, *a, really=Store.lacks: made.kept != "network" and really(self, made, *a)
    )
    return loader


def test_each_image_is_read_once_for_all_methods_taps_and_subsets(root, load):
    trials = [trial(tap, per_class=n) for tap in ("conv2", "fc7", "softmax") for n in (1, 3, 5)]
    trials += [replace(trial(), method=KNN(tap)) for tap in ("conv5", "fc6")]
    assert (Lab(root, workers=1).run(trials)["status"] == "ok").all()
    assert load.seen == sum(COUNTS.values())
    assert load.loads == len(COUNTS) == len(files(root))


@pytest.mark.parametrize("grid", [1, 3])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("tap", ["conv2", "fc7", "softmax"])
def test_the_same_features_as_read_directly(root, tap, split, grid):
    load = Loader()
    for _ in range(2):
        got = read(root, trial(tap, seed=3), load, split, grid)
        assert got.dtype == torch.float32
        assert torch.allclose(got, direct(trial(tap, seed=3), load, split, grid), atol=1e-6)
    assert load.loads == 1


def test_the_same_results_as_without(tmp_path, load, monkeypatch):
    trials = [trial(solver=solver) for solver in (None, "logistic", "squared-hinge")]
    kept = Lab(tmp_path / "kept", workers=1).run(trials)
    monkeypatch.setattr(module, "LIMIT", 0)
    assert kept.drop(columns="seconds").equals(Lab(tmp_path / "not", workers=1).run(trials).drop(columns="seconds"))
    assert not files(tmp_path / "not")


def test_features_of_other_images_are_maps_where_those_are_asked(root, load):
    """Of the source's own images."""
    sources = ImageSet("synthetic:source")
    of = lambda maps: Context(CPU, Store(root)).arrays(Features(trial().start, sources, 24, "validation", maps))  # noqa: E731
    means, maps = of(None), of("conv2")
    assert list(maps) == ["conv2"]
    assert maps["conv2"].shape == (len(load_images(sources, 24).splits["validation"].labels), 4, 12, 12)
    assert torch.allclose(maps["conv2"].mean((2, 3)), means["conv2"], atol=1e-6)
    assert len(files(root)) == 2


def test_maps_are_read_once_and_pooled_as_they_are_asked_for(root, load):
    asked = trial("conv2")
    sample = Context(CPU, Store(root)).sample(asked.target, "test", 0)
    maps = read_directly(load.net, sample, ["conv2"], None)["conv2"]
    load.loads = 0
    means, maxima, whole = (
        Context(CPU, Store(root)).features(asked, sample, "conv2", *how) for how in ((2,), (2, "max"), (None,))
    )
    assert torch.allclose(whole, maps, atol=1e-6)
    assert torch.allclose(means, torch.nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1), atol=1e-6)
    assert torch.equal(maxima, torch.nn.functional.adaptive_max_pool2d(whole, 2).flatten(1))
    assert load.loads == 1


def test_seeds_share_the_features_of_weights(root):
    load = Loader()
    sample = Context(CPU, None).sample
    drawn = [sample(trial().target, "train", seed).rows.tolist() for seed in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    for seed in range(3):
        asked = trial(seed=seed, source=WEIGHTS)
        assert torch.allclose(read(root, asked, load, "train"), direct(asked, load, "train"), atol=1e-6)
    assert load.loads == 1


@pytest.mark.parametrize(
    "other",
    [
        trial(seed=1),
        trial(source=replace(SOURCE, recipe=Recipe(steps=2, batch=1, lr=0.1))),
        trial(source=WEIGHTS),
        trial(name="synthetic:0.5"),
        trial(source=replace(SOURCE, subset=Subset(per_class=1))),
    ],
    ids=["seed", "recipe", "weights", "images", "subset"],
)
def test_what_has_features_of_its_own(root, other):
    first, second = Loader(0), Loader(1)
    read(root, trial(), first)
    assert torch.allclose(read(root, other, second), direct(other, second), atol=1e-6)
    assert second.loads == 1


@pytest.mark.parametrize(
    "other", [trial("conv1"), trial(per_class=1), trial(strengths=(1.0,)), trial(solver="logistic")]
)
def test_what_shares_features(root, other):
    load = Loader()
    read(root, trial(), load)
    read(root, other, load)
    assert load.loads == 1


def test_weights_are_told_apart_by_fingerprint_and_backbone():
    def key(asked: Trial) -> str:
        return asked.features()[0].key

    assert key(trial(source=WEIGHTS)) == key(trial(source=Weights("file:moved.pt", "0123"), seed=5))
    assert key(trial(source=Weights("file:net.pt", "4567"))) != key(trial(source=WEIGHTS))
    assert key(replace(trial(source=WEIGHTS), backbone=AlexNet((4, 4, 4, 4, 5), (8, 6)))) != key(trial(source=WEIGHTS))


def test_a_network_is_not_loaded_when_its_features_are_there(root, load):
    Lab(root, workers=1).run([trial()])
    before = load.loads
    assert (Lab(root, workers=1).run([trial("fc6")])["status"] == "ok").all()
    assert load.loads == before


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"half": data[: len(data) // 2], "empty": b"", "text": b"no features at all, but some text"}[how])


@pytest.mark.parametrize("how", ["half", "empty", "text"])
def test_a_damaged_file_is_made_again(root, how):
    load = Loader()
    before = read(root, trial(), load).clone()
    (path,) = files(root)
    damaged(path, how)
    with pytest.warns(UserWarning, match=r"arrays \(=.*\): cannot be read \(.+\); it is made again"):
        again = read(root, trial(), load)
    assert torch.equal(again, before)
    assert load.loads == 2
    assert torch.equal(read(root, trial(), pytest.fail), before)


def test_deleted_files_are_made_again(root):
    before = read(root, trial(), Loader()).clone()
    for path in files(root):
        path.unlink()
    assert torch.equal(read(root, trial(), Loader()), before)


def test_unknown_layer(root):
    rule = r"layer \(=fc9\): must be one of conv1_pre, conv1,.* did you mean fc8\?"
    for _ in range(2):
        with pytest.raises(UserError, match=rule):
            read(root, trial("fc9"), Loader())


def test_too_many_features_are_not_kept(root, monkeypatch):
    load = Loader()
    sample = Context(CPU, None).sample(trial().target, "test", 0)
    every = read_directly(load.net, sample, list(taps(load.net)))
    size = 4 * COUNTS["test"] * sum(value.shape[1] for value in every.values())
    monkeypatch.setattr(module, "LIMIT", size - 1)
    assert torch.allclose(read(root, trial(), load), direct(trial(), load), atol=1e-6)
    assert not files(root)
    monkeypatch.setattr(module, "LIMIT", size)
    read(root, trial(), load)
    assert files(root)


def test_a_file_holds_all_layers_of_all_images(root):
    load = Loader()
    read(root, trial(), load)
    (path,) = files(root)
    kept = load_file(path)
    assert kept.keys() == taps(load.net).keys()
    assert {len(value) for value in kept.values()} == {COUNTS["test"]}
    assert torch.allclose(kept["softmax"].sum(1), torch.ones(COUNTS["test"]))


def test_who_comes_second_waits_for_the_first(root):
    read(root, trial(), Loader())
    (path,) = files(root)
    made, got = path.read_bytes(), []
    path.unlink()
    second = threading.Thread(target=lambda: got.append(read(root, trial(), pytest.fail)))
    with Store(root).claim(path.stem) as mine:
        second.start()
        time.sleep(0.3)
        assert mine
        assert second.is_alive()
        path.write_bytes(made)
    second.join(5)
    assert len(got[0]) == 12


def contend(root: Path, start, results) -> None:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        shrink_world(patch)
        load = Loader()
        start.wait(60)
        found = [read(root, trial(), load, split).sum().item() for split in COUNTS]
    results.put((load.seen, found))


def test_two_processes_share_the_work(root):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    other = context.Process(target=contend, args=(root, start, results))
    other.start()
    contend(root, start, results)
    (first, one), (second, two) = results.get(timeout=60), results.get(timeout=60)
    other.join()
    assert first + second == sum(COUNTS.values())
    assert one == two
