"""Networks trained together are trained as if they were alone."""

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from test_fit import RECIPE, SIZE, SMALL, flat_colours
from torch import nn
from torch.profiler import ProfilerActivity, profile

from transferlab.backbones import AlexNet, ResNet
from transferlab.data.augment import BLOCK
from transferlab.data.images import Sample
from transferlab.nets.build import build
from transferlab.nets.taps import freeze
from transferlab.specs import Recipe
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.fit import Diverged, cross_entropy, finite, fit, fit_together, may_be_captured, pack_size
from transferlab.train.pack import Trainee, best_size
from transferlab.train.steps import Stepwise, captured

STEPS = replace(RECIPE, steps=20)


def pictures(count: int = 40) -> Sample:
    """Noise of the colour of its class: no two pixels are equal, so that no rounding moves a maximum."""
    sample = flat_colours(count)
    noise = torch.randint(0, 128, sample.pixels.shape, generator=torch.Generator().manual_seed(1))
    return replace(sample, pixels=(sample.pixels // 2 + noise).to(torch.uint8))


def trainee(
    k: int, backbone=SMALL, recipe: Recipe = STEPS, sample: Sample | None = None, frozen: str | None = None, **of_recipe
) -> Trainee:
    """Different weights, orders and rates; the head learns three times as fast."""
    net = build(backbone, SIZE, 4, k)
    if frozen:
        freeze(net, frozen)
    head = net.head if isinstance(backbone, AlexNet) else net.fc
    return Trainee(net, sample or pictures(), replace(recipe, **{"lr": 0.01 * (k + 1)} | of_recipe), 100 + k, {head: 3.0})


def alone(t: Trainee) -> torch.Tensor:
    return fit(t.net, t.sample, t.recipe, t.seed, t.multiples)


def close(a: nn.Module, b: nn.Module, within: float) -> bool:
    return all((x.float() - y.float()).abs().max() < within for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("frozen", [None, "conv3"])
@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_losses_and_networks_are_those_of_training_one_after_another(frozen, augment):
    recipe = replace(STEPS, augment=augment)
    packed, separate = ([trainee(k, recipe=recipe, frozen=frozen) for k in range(4)] for _ in range(2))
    losses = fit_together(packed)
    assert losses.shape == (4, 20)
    for row, a, b in zip(losses, packed, separate, strict=True):
        assert (row - alone(b)).abs().max() < 1e-5
        assert close(a.net, b.net, 1e-4)
        assert {n for n, p in a.net.named_parameters() if p.requires_grad} == {n for n, p in b.net.named_parameters() if p.requires_grad}


def test_a_resnet_too():
    make = lambda: [trainee(k, ResNet(stem="full"), replace(STEPS, steps=3, batch=8), lr=1e-4) for k in range(2)]  # noqa: E731
    for row, b in zip(fit_together(make()), make(), strict=True):
        assert (row - alone(b)).abs().max() < 1e-5


def test_samples_and_regularisers_may_differ():
    few = replace(pictures(), rows=pictures().rows[:8], labels=pictures().labels[:8])
    other = replace(pictures(), pixels=pictures().pixels.flip(2))
    make = lambda: [  # noqa: E731
        trainee(0, sample=few),
        trainee(1, sample=other, momentum=0.0),
        trainee(2, weight_decay=0.1),
    ]
    for row, b in zip(fit_together(make()), make(), strict=True):
        assert (row - alone(b)).abs().max() < 1e-5


def test_images_are_shared_in_memory():
    from transferlab.train.feed import Feed

    sample = flat_colours()
    parts = [replace(sample, rows=sample.rows[k:], labels=sample.labels[k:]) for k in range(3)]
    assert Feed(parts, STEPS, range(3)).pixels is sample.pixels


def test_one_that_diverges_leaves_the_others_alone():
    packed = [trainee(0), trainee(1, lr=99.0, weight_decay=1e6, warmup=0.0), trainee(2)]
    losses = fit_together(packed)
    with pytest.raises(Diverged, match="by step 20"):
        finite(losses[1])
    for k in (0, 2):
        assert (finite(losses[k]) - alone(trainee(k))).abs().max() < 1e-5


def test_bf16_is_as_good_together():
    recipe = replace(RECIPE, precision="bf16", label_smoothing=0.0)
    losses = fit_together([trainee(k, recipe=recipe) for k in (2, 3)])
    assert (losses[:, -5:].mean(1) < 0.5 * losses[:, 0]).all()


def test_a_loss_of_ones_own():
    double = lambda net, batch, recipe: 2 * cross_entropy(net, batch, recipe)  # noqa: E731
    losses = fit_together([trainee(k) for k in range(2)], double)
    assert losses[0, 0].item() == pytest.approx(2 * alone(trainee(0))[0].item(), rel=1e-5)


def test_a_pack_that_fails_leaves_its_networks_as_they_were():
    packed, before = ([trainee(k) for k in range(2)] for _ in range(2))
    calls = iter(range(100))

    def loss(net, batch, recipe):
        if next(calls) > 10:
            raise torch.OutOfMemoryError("no room")
        return cross_entropy(net, batch, recipe)

    with pytest.raises(torch.OutOfMemoryError):
        fit_together(packed, loss)
    assert all(close(a.net, b.net, 1e-9) for a, b in zip(packed, before, strict=True))


@pytest.mark.parametrize("steps", [2, 20, BLOCK + 5])
@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_a_captured_step_reads_from_the_device_where_training_is(monkeypatch, steps, augment):
    """As on a GPU, but that a captured step is computed anew each time: whatever it took from Python would stay as it was."""
    recipe = replace(STEPS, steps=steps, augment=augment)
    packed, separate = ([trainee(k, recipe=recipe) for k in range(2)] for _ in range(2))
    with monkeypatch.context() as as_on_a_gpu:
        capture(as_on_a_gpu)
        losses = fit_together(packed)
    assert (losses - fit_together(separate)).abs().max() < 1e-6
    assert all(close(a.net, b.net, 1e-6) for a, b in zip(packed, separate, strict=True))


def test_a_captured_pack_goes_on_in_the_middle_of_a_block(monkeypatch, tmp_path):
    capture(monkeypatch)
    recipe, calls = replace(STEPS, steps=BLOCK + 10), iter(range(10**6))

    def killed(net, batch, recipe):
        if next(calls) == 2 * (BLOCK + 3):
            raise KeyboardInterrupt
        return cross_entropy(net, batch, recipe)

    with pytest.raises(KeyboardInterrupt):
        fit_together([trainee(k, recipe=recipe) for k in range(2)], killed, Checkpoint(tmp_path / "c.pt", 0))
    again = [trainee(k, recipe=recipe) for k in range(2)]
    losses = fit_together(again, checkpoint=Checkpoint(tmp_path / "c.pt", 10**6))
    assert torch.equal(losses, fit_together([trainee(k, recipe=recipe) for k in range(2)]))


def capture(monkeypatch) -> None:
    """Have steps captured that are not a GPU's; what is replayed is computed anew."""
    monkeypatch.setattr("transferlab.train.steps.captured", lambda action, device: action)
    monkeypatch.setattr("transferlab.train.fit.may_be_captured", lambda device, loss: True)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_captured_is_done_as_it_comes(monkeypatch, error):
    """But for want of memory, for which there are smaller packs."""

    @contextmanager
    def refused(graph, stream):
        raise error("operation not permitted when stream is capturing")
        yield

    for name, stub in (("CUDAGraph", object), ("graph", refused), ("current_stream", lambda device: None)):
        monkeypatch.setattr(torch.cuda, name, stub)
    action = lambda: None  # noqa: E731
    with pytest.raises(error) if error is torch.OutOfMemoryError else nullcontext():
        assert captured(action, torch.device("cuda")) is action


def test_only_a_step_that_is_always_the_same_is_captured():
    own = lambda net, batch, recipe: cross_entropy(net, batch, recipe)  # noqa: E731
    assert may_be_captured(torch.device("cuda"), cross_entropy)
    assert not may_be_captured(torch.device("cuda"), own)
    assert not may_be_captured(torch.device("cpu"), cross_entropy)


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_together_is_alone_and_captured_is_step_by_step(monkeypatch, device):
    where = torch.device(device)
    place = lambda t: replace(t, net=t.net.to(where), sample=t.sample.to(where))  # noqa: E731
    losses = fit_together([place(trainee(k)) for k in range(3)])
    monkeypatch.setattr("transferlab.train.fit.Captured", Stepwise)
    for k, row in enumerate(losses):
        assert (row - fit_together([place(trainee(k))])[0]).abs().max() < 1e-5


def test_dropout_is_each_networks_own():
    def net() -> nn.Module:
        made = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * SIZE**2, 4))
        made.load_state_dict({k: torch.zeros_like(v) for k, v in made.state_dict().items()})
        return made

    losses = fit_together([Trainee(net(), flat_colours(), STEPS, 0) for _ in range(2)])
    assert not torch.equal(losses[0], losses[1])


# ------------------------------------------------------------------------------------------------------ pack sizes


@pytest.mark.parametrize(
    ("speeds", "best"),
    [
        ({1: 1.0, 4: 0.8}, 1),
        ({1: 1.0, 4: 1.05}, 1),
        ({1: 1.0, 4: 1.8, 16: 1.9}, 4),
        ({1: 1.0, 4: 1.8, 16: 2.1}, 16),
        ({1: 1.0, 4: 2.0, 16: None}, 4),
    ],
)
def test_packs_grow_while_they_pay_and_fit(speeds, best):
    def seconds(some) -> float:
        if speeds[len(some)] is None:
            raise torch.OutOfMemoryError("no room")
        return len(some) / speeds[len(some)]

    assert best_size([trainee(0)] * 17, seconds) == best


def test_looking_for_the_size_leaves_the_networks_alone():
    trainees = [trainee(k) for k in range(4)]
    before = [trainee(k) for k in range(4)]
    assert pack_size(trainees) in (1, 4)
    assert all(close(a.net, b.net, 1e-9) for a, b in zip(trainees, before, strict=True))


def test_no_step_waits_for_the_device(monkeypatch):
    """As in test_fit: beyond what setting up reads, a number of the device's is read once a block, however many networks train."""
    monkeypatch.setattr("transferlab.train.fit.BLOCK", 4)

    def calls(steps: int) -> Counter:
        trainees = [trainee(k, recipe=replace(STEPS, steps=steps, batch=4)) for k in range(3)]
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
            fit_together(trainees)
        return Counter(e.name for e in profiled.events())

    few, more = calls(4), calls(12)
    assert few["aten::addcmul_"] == 3 * 4  # an update of all networks at once, not one of each
    assert more["aten::_local_scalar_dense"] - few["aten::_local_scalar_dense"] == 2
    assert more["aten::nonzero"] == 0
