"""Several labels an image: the methods that can do that, alone and packed, killed and gone on, searched and refused."""

import copy

import pytest
import torch
from annotated_sets import drawn_target
from small_world import CPU, give, killed_at, run, small_world, trainings  # noqa: F401  (a fixture)

from transferlab.data.images import Sample
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods import BSS, L2SP, Distillation, FineTune, Grow, Probe, Scratch
from transferlab.nets.build import build
from transferlab.specs import AlexNet, MultiLabel, OneOf, Recipe, Source, Subset, Torchvision, Trial
from transferlab.store import Store
from transferlab.train.feed import Batch
from transferlab.train.fit import fit
from transferlab.train.objectives import CrossEntropy, cross_entropy
from transferlab.train.run import Run, Stream

RECIPE = Recipe(6, 8, 0.01)
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
METHODS = [
    Scratch(RECIPE),
    FineTune(RECIPE),
    FineTune(RECIPE, hold=L2SP(0.1)),
    FineTune(RECIPE, hold=Distillation(0.5)),
    FineTune(RECIPE, hold=BSS(0.01)),
    FineTune(RECIPE, probe=0.1),
    FineTune(Recipe(6, 8, 0.01, augment="none"), freeze="conv5"),
    Grow(RECIPE, "widen", (6,)),
    Probe(),
    Probe(solver="logistic"),
    Probe(solver="squared-hinge", normalise=True),
]


@pytest.fixture
def target(tmp_path):
    return drawn_target(tmp_path / "set", MultiLabel())


def trial(target, method, seed: int = 0, **more) -> Trial:
    return Trial(target, method, BACKBONE, seed, None if method.starts is False else SOURCE, **more)


def pretrained() -> torch.nn.Module:
    return build(BACKBONE, 24, 6, 3)


def result(root, asked: Trial, **lab):
    return run(root, asked, pretrained() if asked.source else None, **lab)


@pytest.mark.parametrize(
    "method", METHODS, ids=lambda m: " ".join(filter(None, map(str, [m.kind, *m.columns().values()])))
)
def test_what_is_on_record_and_that_bits_repeat(method, target, tmp_path):
    found = [result(tmp_path / name, trial(target, method)) for name in ("one", "two")]
    assert found[0] == found[1]
    for split in ("", "validation_"):
        assert 0 < found[0][f"{split}mean_ap"] <= 1
        assert 0 < found[0][f"{split}mean_ap_11"] <= 1
        assert found[0][f"{split}n"] > 0
        assert len(found[0][f"{split}average_precisions"]) == 3
        assert found[0][f"{split}log_loss"] > 0
        assert f"{split}accuracy" not in found[0]
    assert result(tmp_path / "other", trial(target, method, 1)) != found[0]


def test_colours_are_learned(tmp_path):
    """The classes of the drawn images are their boxes' colours."""
    target = drawn_target(tmp_path / "many", MultiLabel(), 120)
    found = result(tmp_path / "store", trial(target, Scratch(Recipe(150, 16, 0.1, augment="none"))))
    chance = result(tmp_path / "store", trial(target, Scratch(Recipe(1, 16, 1e-6))))
    assert found["mean_ap"] > 0.9
    assert chance["mean_ap"] < 0.7


def test_packed_is_as_alone(target, tmp_path):
    asked = [trial(target, FineTune(RECIPE), seed) for seed in (0, 1, 2)]
    losses = {}
    for name, pack in (("alone", 1), ("packed", 3)):
        for one in asked:
            give_source(tmp_path / name, one)
        with trainings() as seen:
            Lab(tmp_path / name, workers=1, device="cpu", quiet=True, pack=pack).run(asked)
        losses[name] = torch.stack([s.fitted.losses for s in sorted(seen, key=lambda s: s.job.training.seed)])
        assert Store(tmp_path / name).get(asked[0].key)["provenance"].get("together", 1) == pack
    assert torch.allclose(losses["alone"], losses["packed"], rtol=1e-4)


def give_source(root, asked: Trial) -> None:
    give(root, asked.start, pretrained())


def test_killed_and_gone_on(target, tmp_path, monkeypatch):
    asked = trial(target, FineTune(RECIPE))
    whole, begun = result(tmp_path / "whole", asked), killed_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        result(tmp_path / "killed", asked)
    assert result(tmp_path / "killed", asked) == whole
    assert begun == [0, 1, 2, 3, 3, 4, 5]


def test_a_search_compares_mean_average_precision(target, tmp_path):
    method = FineTune(Recipe(6, 8, OneOf(0.0001, 0.01, seeds=(0,))))
    asked = trial(target, method)
    for one in asked.searches():
        give_source(tmp_path, one)
    lab = Lab(tmp_path, workers=1, device="cpu", quiet=True)
    row = lab.run([asked]).iloc[0]
    tried = {t.recipe.lr: Store(tmp_path).get(t.key)["metrics"]["validation_mean_ap"] for t in asked.searches()}
    assert row["lr"] == max(tried, key=tried.get)
    assert row["task"] == "multi-label"
    assert lab.plan([asked]).runs == []


def test_a_probe_keeps_the_strength_that_ranks_best(target, tmp_path):
    found = result(tmp_path, trial(target, Probe(strengths=(1e-4, 1.0, 100.0))))
    assert found["validation_mean_ap"] == max(found["validation_scores"])
    assert found["strength"] == (1e-4, 1.0, 100.0)[found["validation_scores"].index(found["validation_mean_ap"])]


# --------------------------------------------------------------------------------------------------------------- loss


def test_the_loss_asks_nothing_where_labels_are_nan():
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, torch.nan], [0.0, torch.nan, 0.0]])
    loss = cross_entropy(logits, labels)
    chances = logits.detach().sigmoid()
    by_hand = [-chances[0, 0].log() - (1 - chances[0, 1]).log(), -(1 - chances[1, 0]).log() - (1 - chances[1, 2]).log()]
    assert loss.item() == pytest.approx(sum(v.item() for v in by_hand) / 2, rel=1e-5)
    loss.backward()
    assert (logits.grad == 0).tolist() == [[False, False, True], [False, True, False]]
    assert logits.grad.isfinite().all()
    smooth = cross_entropy(torch.tensor([[0.5]]), torch.tensor([[1.0]]), 0.1).item()
    right = torch.tensor(0.5).sigmoid()
    assert smooth == pytest.approx((-0.95 * right.log() - 0.05 * (1 - right).log()).item(), rel=1e-5)


def test_images_of_which_nothing_is_known_change_nothing():
    """But through the batch: a net trained on them alone stays where it was, without decay."""
    pixels = torch.randint(0, 256, (8, 24, 24, 3), dtype=torch.uint8)
    sample = Sample(pixels, torch.arange(8), torch.full((8, 3), torch.nan), 3)
    net = build(AlexNet((8, 8, 8, 8, 8), (24, 16), norm="none"), 24, 3, 0)
    before = copy.deepcopy(net.state_dict())
    fit(Run(net, (Stream(sample, 0),), Recipe(3, 4, 0.1, weight_decay=0.0, augment="none"), 0))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_one_label_is_as_before():
    net, images = build(BACKBONE, 24, 5, 0).eval(), torch.randn(4, 3, 24, 24)
    labels = torch.tensor([0, 1, 4, 2])
    loss = CrossEntropy().bind(net, RECIPE)(Batch(images, labels))
    assert torch.equal(loss, torch.nn.functional.cross_entropy(net(images), labels, label_smoothing=0.1))


def test_a_head_behind_which_a_relu_follows_is_refused():
    """Its answers are never below zero: no sigmoid of one says that a class is not there."""
    pixels = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    sample = Sample(pixels, torch.arange(4), torch.zeros(4, 3), 3)
    net = build(Torchvision("squeezenet1_0"), 64, 3, 0).to(CPU)
    with pytest.raises(UserError, match=r"task \(=multi-label\): wants a head that is a linear layer"):
        Run(net, (Stream(sample, 0),), RECIPE, 0)
