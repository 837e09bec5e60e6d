"""The linear probe: its penalty is chosen on validation images only."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import context, run
from torch import nn

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure.metrics import scores
from transferlab.methods import Probe
from transferlab.nets.build import build
from transferlab.run.context import Context
from transferlab.specs import AlexNet, Features, Recipe, Source, Subset, Target, Trial
from transferlab.train.read import read
from transferlab.train.solvers import logistic, ridge, squared_hinge

STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)
SMALL = AlexNet((8, 8, 8, 8, 8), (24, 16))


def trial(tap: str = "fc7", strengths: tuple[float, ...] = STRENGTHS, solver: str | None = None) -> Trial:
    source = Source("synthetic:source", 24, Recipe(steps=1, batch=1, lr=0.1))
    target = Target("synthetic:0", 24, Subset(classes=4, per_class=6))
    return Trial(target, Probe(tap, strengths, solver), SMALL, 0, source)


def network() -> nn.Module:
    return build(SMALL, 24, 5, 0)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """A function: what is measured of a trial, each time anew, of features that are read once."""
    root = tmp_path_factory.mktemp("store")

    def measured(asked: Trial) -> dict:
        shutil.rmtree(root / "records", ignore_errors=True)
        return run(root, asked, network())

    return measured


@pytest.fixture
def altered(monkeypatch):
    """A function that makes another sample of one split, for the probe alone."""
    sample_of = Context.sample

    def alter(split: str, change) -> None:
        def altered_sample(self, target, asked, seed):
            sample = sample_of(self, target, asked, seed)
            return change(sample) if asked == split else sample

        monkeypatch.setattr(Context, "sample", altered_sample)

    return alter


def shuffled(sample):
    order = torch.randperm(len(sample.labels), generator=torch.Generator().manual_seed(1))
    return replace(sample, labels=sample.labels[order])


@pytest.mark.parametrize(("solver", "solve"), [(None, ridge), ("logistic", logistic), ("squared-hinge", squared_hinge)])
def test_the_penalty_is_chosen_on_validation_images(solver, solve, probe):
    part = {split: target_sample(trial().target, split, 0) for split in ("train", "validation", "test")}
    x = {split: read(network(), sample, ["fc7"])["fc7"] for split, sample in part.items()}
    weights, biases = solve(x["train"], part["train"].labels, 4, STRENGTHS)
    x = {split: value.to(weights.dtype) for split, value in x.items()}
    each = list(zip(weights, biases, strict=True))
    right = {s: [scores(x[s] @ w + b, part[s].labels)["accuracy"] for w, b in each] for s in x}
    best = int(np.argmax(right["validation"]))
    expected = {"strength": STRENGTHS[best], "validation_accuracies": right["validation"]}
    for split, before in (("test", ""), ("validation", "validation_")):
        found = scores(x[split] @ weights[best] + biases[best], part[split].labels)
        expected |= {f"{before}{name}": value for name, value in found.items()}
    assert probe(trial(solver=solver)) == expected
    assert expected["validation_accuracy"] == max(right["validation"])


def test_solvers_have_keys_of_their_own_and_ridge_the_one_it_had():
    assert trial(solver="ridge") == trial()
    assert trial(solver="ridge").key == trial().key
    assert "solver" not in trial().method.to_dict()
    assert len({trial(solver=solver).key for solver in (None, "logistic", "squared-hinge")}) == 3
    message = r"solver \(=logistics\): must be one of ridge, logistic, squared-hinge; did you mean logistic\?"
    with pytest.raises(UserError, match=message):
        trial(solver="logistics")


def test_test_images_do_not_choose(altered, probe):
    before = probe(trial())
    altered("test", shuffled)
    after = probe(trial())
    same = ("strength", "validation_accuracies", "validation_log_loss")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert after["accuracy"] < before["accuracy"]


def test_validation_images_do_choose(altered, probe):
    chosen = {probe(trial())["strength"]}
    altered("validation", shuffled)
    chosen.add(probe(trial())["strength"])
    assert len(chosen) == 2


def test_equal_penalties_go_to_the_first(probe):
    assert probe(trial(strengths=(1e-9, 1e-9)))["strength"] == 1e-9
    assert probe(trial(strengths=(0.5, 0.5000001)))["strength"] == 0.5


def test_the_network_stays_as_it_is(tmp_path):
    first, file = run(tmp_path, trial(), network()), context(tmp_path).store.file(trial().start)
    before = file.read_bytes()
    for path in (tmp_path / "features").iterdir():
        path.unlink()
    assert run(tmp_path, trial(solver="logistic")) != first
    assert file.read_bytes() == before


def test_unknown_layer(probe):
    with pytest.raises(UserError, match=r"layer \(=layer4\): must be one of conv1_pre"):
        probe(trial(tap="layer4"))


def test_a_network_is_loaded_by_who_needs_it(tmp_path, monkeypatch):
    """Where features are on record, nobody opens it."""
    first = run(tmp_path, trial(), network())
    monkeypatch.setattr(Context, "load", lambda *given: pytest.fail("it was loaded"))
    found = run(tmp_path, trial(strengths=(1e-4, 1e-2, 1.0, 100.0, 1000.0)))
    assert found["validation_accuracies"][:4] == first["validation_accuracies"]


def test_maps_are_read_on_a_grid(tmp_path):
    asked = trial("pool5")
    finer = replace(asked, method=replace(asked.method, grid=2))
    assert replace(asked, method=replace(asked.method, grid=1)).key == asked.key != finer.key
    with_grid = run(tmp_path, finer, network())
    assert run(tmp_path, asked) != with_grid
    part = {split: target_sample(asked.target, split, 0) for split in ("train", "validation")}
    x = {split: read(network(), sample, ["pool5"], grid=2)["pool5"] for split, sample in part.items()}
    weights, biases = ridge(x["train"], part["train"].labels, 4, STRENGTHS)
    logits = (x["validation"].to(weights) @ weights + biases[:, None]).unbind()
    assert with_grid["validation_accuracies"] == [scores(one, part["validation"].labels)["accuracy"] for one in logits]
    assert {made.grid for made in finer.needs() if isinstance(made, Features)} == {2}
