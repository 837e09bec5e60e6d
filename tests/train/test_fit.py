"""The loop: the same bits for the same seed, falling losses, divergence that is noticed, no waiting for the device."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from transferlab.data.augment import BLOCK
from transferlab.data.images import Sample
from transferlab.errors import UserError
from transferlab.nets.build import build
from transferlab.specs.networks import AlexNet, Torchvision
from transferlab.specs.recipe import Recipe
from transferlab.train.fit import Diverged, fit
from transferlab.train.objectives import CrossEntropy
from transferlab.train.read import predict
from transferlab.train.run import Run, Stream

SIZE = 16
SMALL = AlexNet((8, 8, 8, 8, 8), (16, 16))
RECIPE = Recipe(steps=30, batch=16, lr=0.05)


def flat_colours(count: int = 40, classes: int = 4) -> Sample:
    """Images whose class is their colour, with some noise; they are every other row of their split."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    colours = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]])[labels]
    noise = torch.randint(-20, 21, (count, SIZE, SIZE, 3), generator=random)
    pixels = torch.zeros(2 * count, SIZE, SIZE, 3, dtype=torch.uint8)
    pixels[::2] = (colours[:, None, None, :] + noise).to(torch.uint8)
    return Sample(pixels, torch.arange(0, 2 * count, 2), labels, classes)


def run_of(net: nn.Module, sample: Sample | None = None, recipe: Recipe = RECIPE, seed: int = 0, **more) -> Run:
    """A run of one stream, whose order and dropout have the same seed."""
    return Run(net, (Stream(sample or flat_colours(), seed),), recipe, seed, **more)


class Own(CrossEntropy):
    """Cross-entropy, changed by a function of value and batch."""

    def __init__(self, change) -> None:
        self.change = change

    def bind(self, net, recipe):
        loss = super().bind(net, recipe)
        return lambda batch: self.change(loss(batch), batch)


def trained(
    recipe: Recipe = RECIPE, seed: int = 0, sample: Sample | None = None, **more
) -> tuple[nn.Module, torch.Tensor]:
    net = build(SMALL, SIZE, 4, 0)
    return net, fit(run_of(net, sample, recipe, seed, **more)).losses


def test_losses_fall_on_what_can_be_told_apart():
    net, losses = trained(replace(RECIPE, label_smoothing=0.0))
    assert (losses.shape, losses.dtype, losses.device.type) == ((30,), torch.float32, "cpu")
    assert losses[0] > 1
    assert losses[-5:].mean() < 0.2 * losses[0]
    sample = flat_colours()
    assert (predict(net, sample).argmax(1) == sample.labels).float().mean() > 0.95


def test_the_same_seed_gives_the_same_bits():
    net, losses = trained()
    torch.rand(5)
    again, same = trained()
    assert torch.equal(losses, same)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_another_seed_gives_another_training():
    assert not torch.equal(trained(seed=0)[1], trained(seed=1)[1])


def test_dropout_follows_the_seed_too():
    losses = []
    for seed in (0, 0, 1):
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * SIZE**2, 4))
        net.load_state_dict({k: torch.zeros_like(v) for k, v in net.state_dict().items()})
        torch.rand(7)
        same = replace(flat_colours(), rows=torch.zeros(40, dtype=torch.int64))
        losses.append(fit(run_of(net, same, seed=seed)).losses)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    trained(replace(RECIPE, steps=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_sample_is_left_alone():
    sample = flat_colours()
    trained(sample=sample)
    before = flat_colours()
    assert torch.equal(sample.pixels, before.pixels)
    assert torch.equal(sample.labels, before.labels)


def test_only_the_samples_own_rows_are_read():
    sample = flat_colours()
    other = replace(sample, pixels=sample.pixels.clone())
    other.pixels[1::2] = 255
    assert torch.equal(trained(sample=sample)[1], trained(sample=other)[1])


def test_augmentation_can_be_left_out():
    assert not torch.equal(trained()[1], trained(replace(RECIPE, augment="none"))[1])
    sample = flat_colours()
    flipped = replace(sample, pixels=sample.pixels.flip(2))
    plain = replace(RECIPE, augment="none", steps=1)
    assert not torch.equal(trained(plain)[1], trained(plain, sample=flipped)[1])


def test_one_image_and_one_step():
    sample = Sample(torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8), torch.tensor([0]), torch.tensor([3]), 4)
    _, losses = trained(replace(RECIPE, steps=1, batch=2), sample=sample)
    assert losses.isfinite().all()


def test_no_images():
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(UserError, match=r"images \(=0\)"):
        trained(sample=replace(flat_colours(), rows=none, labels=none))


@pytest.mark.parametrize("lr", [0.0001, 0.05])
def test_a_head_may_learn_faster(lr):
    """With a rate of almost nothing for the body, the head alone moves."""
    net = build(SMALL, SIZE, 4, 0)
    before = {k: v.clone() for k, v in net.named_parameters()}
    recipe = replace(RECIPE, lr=lr, steps=5, weight_decay=0.0)
    fit(run_of(net, recipe=recipe, lr_multipliers={net.head: 0.1 / lr}))
    moved = {k: (v - before[k]).norm().item() for k, v in net.named_parameters()}
    assert moved["head.weight"] > 0.01
    assert (moved["fc7.linear.weight"] < 0.01 * moved["head.weight"]) == (lr < 0.01)


def test_an_objective_of_ones_own():
    seen = []

    def zero(value, batch):
        seen.append((batch.images.shape, batch.labels.shape, batch.second))
        return 0 * value + 2

    _, losses = trained(replace(RECIPE, steps=3), objective=Own(zero))
    assert losses.tolist() == [2, 2, 2]
    assert seen == [((16, 3, SIZE, SIZE), (16,), None)] * 3


def test_label_smoothing_is_the_recipes():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4))
    net.load_state_dict({k: torch.zeros_like(v) for k, v in net.state_dict().items()})
    net[1].bias.data[0] = 2.0
    sample = replace(flat_colours(), labels=torch.zeros(40, dtype=torch.int64))
    recipe = replace(RECIPE, steps=1, lr=1e-9)
    smoothed = {s: run_of(net, sample, replace(recipe, label_smoothing=s)) for s in (0.0, 0.4)}
    first = {s: fit(run).losses.item() for s, run in smoothed.items()}
    of_class = -torch.tensor([2.0, 0, 0, 0]).log_softmax(0)
    assert first[0.0] == pytest.approx(of_class[0].item(), rel=1e-5)
    assert first[0.4] == pytest.approx(0.6 * of_class[0].item() + 0.4 * of_class.mean().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------ divergence


def test_divergence_is_noticed_at_the_end_of_a_block():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4))
    recipe = replace(RECIPE, steps=3 * BLOCK, batch=4, lr=99.0, weight_decay=0.5, warmup=0.0)
    with pytest.raises(Diverged, match=f"the loss was no longer finite by step {BLOCK}$") as caught:
        fit(run_of(net, recipe=recipe))
    assert caught.value.step == BLOCK


def test_divergence_in_a_short_training_names_its_last_step():
    with pytest.raises(Diverged, match="by step 7"):
        trained(replace(RECIPE, steps=7), objective=Own(lambda value, batch: value * torch.nan))


# -------------------------------------------------------------------------------------------------------- precision


def test_bf16():
    net, losses = trained(replace(RECIPE, precision="bf16", label_smoothing=0.0))
    assert losses[-5:].mean() < 0.3 * losses[0]
    assert not torch.equal(losses, trained(replace(RECIPE, label_smoothing=0.0))[1])
    assert {p.dtype for p in net.parameters()} == {torch.float32}


# ---------------------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize(("augment", "precision"), [("crop-flip", "float32"), ("none", "bf16")])
def test_no_step_waits_for_the_device(monkeypatch, augment, precision):
    """Reading a number of the device's stops the queue: once a block, to look for divergence."""
    monkeypatch.setattr("transferlab.train.fit.BLOCK", 4)
    net, sample = build(SMALL, SIZE, 4, 0), flat_colours()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        fit(run_of(net, sample, Recipe(steps=10, batch=4, lr=0.01, augment=augment, precision=precision)))
    calls = Counter(e.name for e in profiled.events())
    assert calls["aten::convolution"] == 5 * 10  # the profile is of the training
    assert calls["aten::item"] <= 4  # once a block, and once more when all is done
    assert calls["aten::_local_scalar_dense"] <= 4
    assert calls["aten::nonzero"] == 0


def test_networks_of_torchvision_train():
    net = build(Torchvision("squeezenet1_0"), 32, 4, 0)
    pixels = flat_colours().pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    fitted = fit(run_of(net, replace(flat_colours(), pixels=pixels), replace(RECIPE, steps=2, batch=4)))
    assert fitted.losses.isfinite().all()
