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
from transferlab.measure.representation import pca
from transferlab.methods import Probe
from transferlab.methods.probe import votes
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
    assert {made.maps for made in finer.needs() if isinstance(made, Features)} == {"pool5"}


# ------------------------------------------------------------------------------ what is done with features before


def features(tap: str = "fc7", **how) -> dict:
    part = {split: target_sample(trial().target, split, 0) for split in ("train", "validation", "test")}
    return {split: read(network(), sample, [tap], **how)[tap] for split, sample in part.items()}


def labels(split: str) -> torch.Tensor:
    return target_sample(trial().target, split, 0).labels


def with_fields(**fields) -> Trial:
    return replace(trial(), method=replace(trial().method, **fields))


def expected_of(x: dict, times: float = 1.0) -> list[float]:
    """Validation accuracies of ridge regression on features, with so many times the penalties."""
    weights, biases = ridge(x["train"], labels("train"), 4, tuple(times * s for s in STRENGTHS))
    logits = [x["validation"].double() @ w + b for w, b in zip(weights, biases, strict=True)]
    return [scores(one, labels("validation"))["accuracy"] for one in logits]


def test_features_are_scaled_to_length_one(probe):
    x = {s: v / v.norm(dim=1, keepdim=True) for s, v in features().items()}
    assert probe(with_fields(normalise=True))["validation_accuracies"] == expected_of(x)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999999])
def test_a_share_of_the_variance_is_that_of_scikit_learn(share):
    from sklearn.decomposition import PCA

    x = features()["train"].double()
    model = PCA(share, svd_solver="full").fit(x.numpy())
    assert pca(x, share)[1].shape[1] == model.n_components_


@pytest.mark.parametrize("whiten", [None, True])
def test_components_are_those_of_scikit_learn(whiten, probe):
    from sklearn.decomposition import PCA

    x = {s: v.double().numpy() for s, v in features().items()}
    model = PCA(5, whiten=bool(whiten), svd_solver="full").fit(x["train"])
    before = x["train"].var(0).mean()
    x = {s: torch.tensor(model.transform(v)) for s, v in x.items()}
    times = 1.0 if whiten else before / x["train"].var(0, correction=0).mean().item()
    assert probe(with_fields(components=5, whiten=whiten))["validation_accuracies"] == expected_of(x, times)


def test_what_never_varies_is_not_whitened():
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double()
    x[:, 4:] = 1.0
    mean, basis = pca(x, "all", True)
    assert basis.shape == (6, 4)
    assert torch.allclose(((x - mean) @ basis).var(0), torch.ones(4, dtype=x.dtype))
    assert pca(torch.ones(5, 3), "all", True)[1].isfinite().all()


def test_all_components_change_nothing_of_ridge_regression(probe):
    found = probe(with_fields(components="all"))
    plain = probe(trial())
    assert found["validation_accuracies"] == plain["validation_accuracies"]
    assert found["log_loss"] == pytest.approx(plain["log_loss"], abs=1e-4)


def test_whitened_features_are_scaled_to_length_one_again(probe):
    x = {s: v / v.norm(dim=1, keepdim=True) for s, v in features().items()}
    mean, basis = pca(x["train"], 5, True)
    x = {s: (v.double() - mean) @ basis for s, v in x.items()}
    x = {s: v / v.norm(dim=1, keepdim=True) for s, v in x.items()}
    found = probe(with_fields(normalise=True, components=5, whiten=True))
    assert found["validation_accuracies"] == expected_of(x)


def test_maps_are_pooled_by_their_maxima(probe):
    x = features("pool5", grid=2, pool="max")
    asked = replace(trial("pool5"), method=replace(trial("pool5").method, grid=2, pool="max"))
    assert probe(asked)["validation_accuracies"] == expected_of(x)


def test_pairs_vote_as_those_of_scikit_learn():
    """Given the same classifiers."""
    from sklearn.utils.multiclass import _ovr_decision_function

    margins = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).double()
    margins[:20] = margins[:20].round()  # some are equal, some are 0
    theirs = _ovr_decision_function((margins > 0).numpy(), margins.numpy(), 4)
    ours = votes(list(margins.split(1, 1)), 4)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


def test_pairs_of_classes_are_told_apart_by_a_classifier_each(probe):
    x, train = features(), labels("train")
    margins = []
    for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        of = (train == a) | (train == b)
        weights, biases = squared_hinge(x["train"][of], (train[of] == b).long(), 2, (1.0,))
        margin = x["validation"] @ weights[0] + biases[0]
        margins.append(margin[:, 1:] - margin[:, :1])
    won = torch.stack(
        [
            torch.where(m[:, 0] > 0, b, a)
            for m, (a, b) in zip(margins, ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)), strict=True)
        ],
        1,
    )
    counts = torch.nn.functional.one_hot(won, 4).sum(1)
    found = probe(with_fields(pairs=True, solver="squared-hinge", strengths=(1.0,)))["validation_accuracy"]
    right = counts[torch.arange(len(counts)), labels("validation")]
    most = counts.max(1).values
    sure = (right == most) & ((counts == most[:, None]).sum(1) == 1)
    assert sure.double().mean() - 1e-5 <= found <= (right == most).double().mean() + 1e-5
    assert found > 0.3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool": "sum"}, r"pool \(=sum\): must be max, or left out for the mean"),
        ({"whiten": True}, r"whiten \(=True\): asks for a number of components"),
        ({"components": 400}, r"components \(=400\): must be at most 16 \(24 images, 16 features\)"),
        ({"components": "most"}, r"components \(=most\): must be all, a whole number above 0, or a share"),
        ({"components": 2.5}, r"components \(=2.5\): must be all, a whole number above 0, or a share"),
        ({"components": 0}, r"components \(=0\): must be all, a whole number above 0, or a share"),
        ({"grid": 0}, r"grid \(=0\): must be a whole number"),
    ],
)
def test_bad_fields_are_named(fields, message, probe):
    with pytest.raises(UserError, match=message):
        probe(with_fields(**fields))


def test_pairs_take_few_classes(monkeypatch, probe):
    monkeypatch.setattr("transferlab.methods.probe.MOST_PAIRED", 3)
    with pytest.raises(UserError, match=r"pairs \(=True\): takes 3 classes at most, not 4"):
        probe(with_fields(pairs=True))
