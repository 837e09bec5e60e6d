"""Features on disk: read once for all, the same as those read directly, made again when damaged."""

import json
import multiprocessing
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_world import WORLD, shrink_world, small_world  # noqa: F401  (a fixture for the whole module)

from transferlab.backbones import AlexNet
from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.methods import feature_cache, probe
from transferlab.methods.feature_cache import FeatureCache
from transferlab.nets.build import build
from transferlab.nets.taps import taps
from transferlab.specs import Probe, Recipe, Source, Subset, Target, Trial, Weights
from transferlab.store import Store
from transferlab.train.predict import features

SMALL = AlexNet((4, 4, 4, 4, 4), (8, 6))
CPU = torch.device("cpu")
COUNTS = {split: 100 * each for split, each in WORLD["target"].items()}
SOURCE = Source("synthetic:source", 24, Recipe(steps=1, batch=1, lr=0.1))
WEIGHTS = Weights("file:net.pt", "0123")


def trial(tap="fc7", seed=0, source=SOURCE, per_class=3, name="synthetic:0", split="test", **method) -> Trial:
    return Trial(Target(name, 24, Subset(classes=6, per_class=per_class)), Probe(tap, **method), SMALL, seed, source, split)


def cache_in(folder: Path) -> FeatureCache:
    return FeatureCache(folder / "features", Store(folder).claim)


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return cache_in(tmp_path / "store")


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


def read(cache: FeatureCache, asked: Trial, load, split: str = "test") -> torch.Tensor:
    return cache.read(asked, target_sample(asked.target, split, asked.seed), asked.method.tap, load, CPU)


def direct(asked: Trial, load: Loader, split: str = "test") -> torch.Tensor:
    return features(load.net, target_sample(asked.target, split, asked.seed), [asked.method.tap])[asked.method.tap]


def test_each_image_is_read_once_for_all_taps_subsets_and_splits(cache):
    load = Loader()
    for tap in taps(load.net):
        for per_class in (1, 3, 5):
            probe.run(trial(tap, per_class=per_class), load, CPU, cache=cache)
    assert load.seen == sum(COUNTS.values())
    assert load.loads == len(COUNTS)
    assert len(list(cache.folder.iterdir())) == len(COUNTS)


def test_a_probe_that_reads_validation_images_leaves_test_images_alone(cache):
    load = Loader()
    probe.run(trial(split="validation"), load, CPU, cache=cache)
    assert load.seen == COUNTS["train"] + COUNTS["validation"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("tap", ["conv2", "fc7", "softmax"])
def test_the_same_features_as_read_directly(cache, tap, split):
    load = Loader()
    for _ in range(2):
        got = read(cache, trial(tap, seed=3), load, split)
        assert got.dtype == torch.float32
        assert torch.allclose(got, direct(trial(tap, seed=3), load, split), atol=1e-6)


def test_the_same_results_as_without(cache):
    for solver in (None, "logistic", "squared-hinge"):
        asked = trial(solver=solver)
        assert probe.run(asked, Loader(), CPU, cache=cache) == probe.run(asked, Loader().net, CPU)


def test_seeds_share_the_features_of_weights(cache):
    load = Loader()
    drawn = [target_sample(trial(seed=seed).target, "train", seed).rows.tolist() for seed in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    for seed in range(3):
        asked = trial(seed=seed, source=WEIGHTS)
        assert torch.allclose(read(cache, asked, load, "train"), direct(asked, load, "train"), atol=1e-6)
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
def test_what_has_features_of_its_own(cache, other):
    first, second = Loader(0), Loader(1)
    read(cache, trial(), first)
    assert torch.allclose(read(cache, other, second), direct(other, second), atol=1e-6)
    assert second.loads == 1


@pytest.mark.parametrize(
    "other", [trial("conv1"), trial(per_class=1), trial(strengths=(1.0,)), trial(solver="logistic"), trial(split="validation")]
)
def test_what_shares_features(cache, other):
    load = Loader()
    read(cache, trial(), load)
    read(cache, other, load)
    assert load.loads == 1


def test_weights_are_told_apart_by_fingerprint_and_backbone():
    names = [feature_cache.network_name(t) for t in (trial(source=WEIGHTS), trial(source=Weights("file:moved.pt", "0123"), seed=5))]
    assert names[0] == names[1]
    assert feature_cache.network_name(trial(source=Weights("file:net.pt", "4567"))) != names[0]
    assert feature_cache.network_name(replace(trial(source=WEIGHTS), backbone=AlexNet((4, 4, 4, 4, 5), (8, 6)))) != names[0]


def test_a_network_is_not_loaded_when_its_features_are_there(cache):
    before = probe.run(trial(), Loader(), CPU, cache=cache)
    assert probe.run(trial(), pytest.fail, CPU, cache=cache) == before


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    if how == "other rows":  # a whole file, but of another number of images
        feature_cache.write(path, Loader().net, ["fc7"], torch.zeros(3, 24, 24, 3, dtype=torch.uint8), {}, CPU)
        return
    middle = start + sum(header["fc7"]["data_offsets"]) // 2
    changed = {
        "half": data[: len(data) // 2],
        "empty": b"",
        "text": b"no features at all, but some text",
        "a bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "no sums": data[:8] + data[8:start].replace(b'"sums"', b'"mums"') + data[start:],
        "zeros": data[:start] + bytes(len(data) - start),
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["half", "empty", "text", "a bit", "no sums", "zeros", "other rows"])
def test_a_damaged_file_is_made_again(cache, how):
    load = Loader()
    before = read(cache, trial(), load).clone()
    (path,) = cache.folder.iterdir()
    damaged(path, how)
    with pytest.warns(UserWarning, match=r"features \(=.*\): damaged \(.+\); they are computed again"):
        again = read(cache, trial(), load)
    assert torch.equal(again, before)
    assert load.loads == 2
    assert torch.equal(read(cache, trial(), pytest.fail), before)


def test_deleted_files_are_made_again(cache):
    before = read(cache, trial(), Loader()).clone()
    for path in cache.folder.iterdir():
        path.unlink()
    assert torch.equal(read(cache, trial(), Loader()), before)


def test_unknown_layer(cache):
    rule = r"layer \(=fc9\): must be one of conv1_pre, conv1,.* did you mean fc8\?"
    with pytest.raises(UserError, match=rule):
        read(cache, trial("fc9"), Loader())
    assert not cache.folder.exists()
    read(cache, trial(), Loader())
    with pytest.raises(UserError, match=rule):
        read(cache, trial("fc9"), pytest.fail)


def test_too_many_features_are_not_kept(cache, monkeypatch):
    load = Loader()
    every = features(load.net, target_sample(trial().target, "test", 0), taps(load.net))
    size = 4 * COUNTS["test"] * sum(value.shape[1] for value in every.values())
    monkeypatch.setattr(feature_cache, "LIMIT", size - 1)
    assert torch.allclose(read(cache, trial(), load), direct(trial(), load), atol=1e-6)
    assert not cache.folder.exists()
    monkeypatch.setattr(feature_cache, "LIMIT", size)
    read(cache, trial(), load)
    assert cache.folder.exists()


def test_a_file_holds_all_layers_of_all_images(cache):
    load = Loader()
    read(cache, trial(), load)
    (path,) = cache.folder.iterdir()
    kept = load_file(path)
    assert kept.keys() == taps(load.net).keys()
    assert {len(value) for value in kept.values()} == {COUNTS["test"]}
    assert torch.allclose(kept["softmax"].sum(1), torch.ones(COUNTS["test"]))


def test_who_comes_second_waits_for_the_first(cache):
    read(cache, trial(), Loader())
    (path,) = cache.folder.iterdir()
    made, got = path.read_bytes(), []
    path.unlink()
    second = threading.Thread(target=lambda: got.append(read(cache_in(cache.folder.parent), trial(), pytest.fail)))
    with cache.claim(f"features-{path.stem}") as mine:
        second.start()
        time.sleep(0.3)
        assert mine
        assert second.is_alive()
        path.write_bytes(made)
    second.join(5)
    assert len(got[0]) == 12


def contend(folder: Path, start, results) -> None:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        shrink_world(patch)
        load = Loader()
        start.wait(60)
        found = [read(cache_in(folder), trial(), load, split).sum().item() for split in COUNTS]
    results.put((load.seen, found))


def test_two_processes_share_the_work(cache):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    other = context.Process(target=contend, args=(cache.folder.parent, start, results))
    other.start()
    contend(cache.folder.parent, start, results)
    (first, one), (second, two) = results.get(timeout=60), results.get(timeout=60)
    other.join()
    assert first + second == sum(COUNTS.values())
    assert one == two
