"""Objectives: bound to what is really trained, so that packed is alone, and killed and resumed is uninterrupted."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from test_fit import RECIPE, SIZE, SMALL, run_of
from test_trainers import alone, capture, killed, pictures, together
from torch import nn

from transferlab.errors import UserError
from transferlab.nets import grow
from transferlab.nets.build import build, head_of
from transferlab.nets.heads import SOURCE_HEAD, add_head, keep_head, logits
from transferlab.nets.taps import freeze
from transferlab.specs.networks import Torchvision
from transferlab.train import objectives
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.feed import Batch
from transferlab.train.fit import fit, fit_together
from transferlab.train.frozen import shortened
from transferlab.train.objectives import (
    BSS,
    DELTA,
    L2SP,
    CoTuning,
    CrossEntropy,
    DetectionLosses,
    Distillation,
    Objective,
    TwoHeads,
    channel_weights,
)
from transferlab.train.read import read
from transferlab.train.run import Run, Stream

STEPS, SHORT = (replace(RECIPE, steps=count) for count in (20, 10))
OBJECTIVES = {
    CrossEntropy: lambda net: CrossEntropy(),
    L2SP: lambda net: L2SP(net.state_dict(), 0.5),
    Distillation: lambda net: Distillation(copy.deepcopy(net), 2.0),
    DELTA: lambda net: DELTA(copy.deepcopy(net), pictures(), 0.1),
    BSS: lambda net: BSS(0.01, 2),
    CoTuning: lambda net: (keep_head(net, SOURCE_HEAD, net.head), CoTuning(torch.eye(4) * 0.6 + 0.1, 1.5))[1],
    TwoHeads: lambda net: two_heads(net, False),
    "apart": lambda net: two_heads(net, True),
}
CLASSES = torch.tensor([4, 0, 2, 1])  # of six


def two_heads(net: nn.Module, apart: bool) -> TwoHeads:
    add_head(net, SOURCE_HEAD, 6, 5)
    return TwoHeads(0.7, CLASSES, apart)


every_objective = pytest.mark.parametrize("kind", OBJECTIVES)


def subclasses(cls: type) -> Iterator[type]:
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


def test_these_are_all_objectives():
    packages = {each for each in subclasses(Objective) if each.__module__.startswith("transferlab.train.")}
    assert packages == (OBJECTIVES.keys() - {"apart"}) | {DetectionLosses}  # a detector's, which are never packed


def runs(kind: type[Objective], count: int = 2, recipe=SHORT, frozen: str | None = None) -> list[Run]:
    """Networks that are moved a bit away from where their objectives think that they started."""
    found = []
    for k in range(count):
        net = build(SMALL, SIZE, 4, k)
        objective = OBJECTIVES[kind](net)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1.1)
        if frozen:
            freeze(net, frozen)
        more = {"lr_multipliers": {net.head: 3.0}, "objective": objective}
        one = run_of(net, pictures(), replace(recipe, lr=0.002 * (k + 1)), k, **more)
        if isinstance(objective, TwoHeads):
            table = torch.randint(
                0, 40, (len(one.streams[0].sample.labels), 3), generator=torch.Generator().manual_seed(k)
            )
            one = replace(one, streams=(*one.streams, Stream(pictures(), 100 + k, table)))
        found.append(one)
    return found


@every_objective
@pytest.mark.parametrize("frozen", [None, "conv3"])
def test_packed_is_alone(kind, frozen):
    losses = together(runs(kind, frozen=frozen))
    for row, run in zip(losses, runs(kind, frozen=frozen), strict=True):
        torch.testing.assert_close(row, alone(run), rtol=1e-6, atol=1e-6)


@every_objective
def test_captured_is_eager(kind, monkeypatch):
    eager = together(runs(kind))
    capture(monkeypatch)
    torch.testing.assert_close(together(runs(kind)), eager, rtol=1e-6, atol=1e-6)


@every_objective
def test_shortened_is_whole(kind):
    """An objective that reads images gets them."""
    plain = replace(SHORT, augment="none")
    short, whole = (runs(kind, 2, plain, "pool5") for _ in range(2))
    short = [shortened(run) for run in short]
    assert all((run.whole is None) == run.objective.reads_images for run in short)
    torch.testing.assert_close(together(short), together(whole), rtol=1e-4, atol=1e-5)


@every_objective
@pytest.mark.parametrize("count", [1, 2])
def test_killed_and_resumed_is_uninterrupted(kind, count, monkeypatch, tmp_path):
    def train(kept: Checkpoint | None = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        some = runs(kind, count)
        return together(some, kept), [v for run in some for v in run.net.state_dict().values()]

    killed(monkeypatch, 7, tmp_path / "c.pt", train)
    (losses, nets), (wanted, those) = train(Checkpoint(tmp_path / "c.pt", 10**6)), train()
    assert torch.equal(losses, wanted)
    assert all(map(torch.equal, nets, those))


# ------------------------------------------------------------------------------------------------------------- L2-SP


def far(net: nn.Module, start: dict[str, torch.Tensor]) -> float:
    """The distance of all weights but the head's."""
    named = [(n, p) for n, p in net.named_parameters() if not n.startswith("head")]
    return sum(((p - start[n]) ** 2).sum() for n, p in named).sqrt().item()


@pytest.mark.parametrize("count", [1, 3])
def test_a_pull_keeps_weights_near_the_start(count):
    """In a pack, too, where it once pulled at nothing."""
    moved = {}
    for strength in (0.0, 1.0):
        nets = [build(SMALL, SIZE, 4, k) for k in range(count)]
        starts = [copy.deepcopy(net.state_dict()) for net in nets]
        pulls = [L2SP(start, strength) for start in starts]
        fit_together([run_of(n, pictures(), STEPS, objective=pull) for n, pull in zip(nets, pulls, strict=True)])
        moved[strength] = [far(*each) for each in zip(nets, starts, strict=True)]
    assert all(near < 0.5 * free for near, free in zip(moved[1.0], moved[0.0], strict=True))


def test_the_penalty_of_l2_sp():
    """By hand: frozen layers and the head are left out, the start stays as it was."""
    net = build(SMALL, SIZE, 4, 0)
    state = net.state_dict()
    pull = L2SP(state, 0.5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)
    freeze(net, "fc6")
    net.eval()
    batch = Batch(torch.zeros(2, 3, SIZE, SIZE), torch.tensor([0, 1]))
    extra = pull.bind(net, STEPS)(batch) - CrossEntropy().bind(net, STEPS)(batch)
    count = sum(p.numel() for p in net.fc7.parameters())
    assert extra.item() == pytest.approx(0.25 * 0.01 * count, rel=1e-4)


# ------------------------------------------------------------------------------------------------------ distillation


def test_answers_stay_as_they_were():
    apart = {}
    for strength in (1e-6, 10.0):
        net = build(SMALL, SIZE, 4, 0)
        before = copy.deepcopy(net).eval()
        fit(run_of(net, pictures(), STEPS, objective=Distillation(copy.deepcopy(net), strength)))
        x = torch.randn(20, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            net.head = before.head
            apart[strength] = F.kl_div(
                net(x).log_softmax(1), before(x).log_softmax(1), reduction="batchmean", log_target=True
            ).item()
    assert apart[10.0] < 0.5 * apart[1e-6]


def test_the_old_network_stays_as_it_was():
    (run,) = runs(Distillation, 1)
    before = copy.deepcopy(run.objective.before.state_dict())
    fit(run)
    assert all(map(torch.equal, before.values(), run.objective.before.state_dict().values()))


def test_a_head_that_is_no_linear_layer():
    net = build(Torchvision("squeezenet1_0"), 32, 4, 0)
    with pytest.raises(UserError, match=r"distillation \(=SqueezeNet\): wants a network whose head is a linear layer"):
        fit(run_of(net, objective=Distillation(copy.deepcopy(net), 1.0)))


# -------------------------------------------------------------------------------------- what an objective doesn't reach


class Sometimes(CrossEntropy):
    """Reaches a layer from some step on."""

    def __init__(self, since: int) -> None:
        self.since = since

    def bind(self, net, recipe):
        loss, steps = super().bind(net, recipe), iter(range(10**6))

        def of(batch):
            extra = net.extra.weight.square().sum() if next(steps) >= self.since else 0
            return loss(batch) + extra

        return of


class Beside(nn.Module):
    """A classifier, and a layer that it doesn't use."""

    def __init__(self, k: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(k)
            self.layer, self.extra = nn.Linear(3 * SIZE**2, 4), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("since", [100, 0, 7])
def test_parameters_that_are_not_reached_neither_decay_nor_move(since):
    recipe = replace(STEPS, weight_decay=0.1, lr=0.01)
    make = lambda: [run_of(Beside(k), pictures(), recipe, k, objective=Sometimes(since)) for k in range(2)]  # noqa: E731
    packed, separate = make(), make()
    losses = together(packed)
    for k, (row, a, b) in enumerate(zip(losses, packed, separate, strict=True)):
        torch.testing.assert_close(row, alone(b), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(a.net.extra.weight, b.net.extra.weight, rtol=1e-5, atol=1e-6)
        for net in (a.net, b.net):
            assert torch.equal(net.extra.weight, Beside(k).extra.weight) == (since == 100)
            assert torch.equal(net.extra.bias, Beside(k).extra.bias)  # never reached


def test_each_network_of_a_pack_has_its_own_reach():
    recipe = replace(STEPS, weight_decay=0.1, lr=0.01)
    make = lambda: [run_of(Beside(k), pictures(), recipe, k, objective=Sometimes(10 * k)) for k in range(3)]  # noqa: E731
    packed, separate = make(), make()
    for row, a, b in zip(together(packed), packed, separate, strict=True):
        torch.testing.assert_close(row, alone(b), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(a.net.extra.weight, b.net.extra.weight, rtol=1e-5, atol=1e-6)


def test_objectives_know_grown_networks_by_their_names():
    """The names of old units stay; those of new ones are in no start."""
    net = grow.widen(build(SMALL, SIZE, 4, 0), 6)
    fit(run_of(net, pictures(), STEPS, objective=L2SP(net.state_dict(), 0.5)))


# -------------------------------------------------------------------------------------------------------- second heads


def two_batches() -> Batch:
    draw = torch.Generator().manual_seed(0)
    own, others = (torch.randn(3, 3, SIZE, SIZE, generator=draw) for _ in range(2))
    return Batch(own, torch.tensor([0, 3, 1]), Batch(others + 1, torch.tensor([2, 0, 3])))


@pytest.mark.parametrize("apart", [False, True])
def test_two_heads_by_hand(apart):
    """Outputs that take no part are no class; labels count the others in the order given."""
    net, batch = build(SMALL, SIZE, 4, 0).train(), two_batches()
    objective, twin = two_heads(net, apart), copy.deepcopy(net)
    value = objective.bind(net, replace(STEPS, label_smoothing=0.0))(batch)
    if apart:
        own, source = twin(batch.images), logits(copy.deepcopy(net), batch.second.images, (SOURCE_HEAD,))[0]
    else:
        both = torch.cat([batch.images, batch.second.images])
        own, source = (
            v[part] for v, part in zip(logits(twin, both, ("head", SOURCE_HEAD)), (slice(3), slice(3, 6)), strict=True)
        )
    source = source[:, CLASSES].log_softmax(1)
    wanted = F.cross_entropy(own, batch.labels) - 0.7 * source[range(3), batch.second.labels].mean()
    torch.testing.assert_close(value, wanted)
    assert all(torch.equal(*pair) for pair in zip(net.buffers(), twin.buffers(), strict=True)), "running statistics"


def test_apart_the_running_statistics_are_the_first_stream_s():
    (apart,), (shared,) = runs("apart", 1), runs(TwoHeads, 1)
    plain = replace(runs(TwoHeads, 1)[0], objective=CrossEntropy())
    free = [replace(r, objective=TwoHeads(1e-30, CLASSES, r.objective.apart)) for r in (apart, shared)]
    losses = [fit(r).losses for r in (plain, *free)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert (losses[0] - losses[2]).abs().max() > 1e-3
    means = [r.net.conv2.norm.running_mean for r in (plain, *free)]
    torch.testing.assert_close(means[0], means[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(means[0], means[2], atol=1e-3)
    assert torch.equal(plain.net.conv2.norm.num_batches_tracked, free[0].net.conv2.norm.num_batches_tracked)


def test_co_tuning_by_hand():
    net, batch = build(SMALL, SIZE, 4, 0).eval(), two_batches()
    keep_head(net, SOURCE_HEAD, build(SMALL, SIZE, 5, 7).head)
    relation = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    value = CoTuning(relation, 2.0).bind(net, STEPS)(batch) - CrossEntropy().bind(net, STEPS)(batch)
    says = logits(net, batch.images, (SOURCE_HEAD,))[0].log_softmax(1)
    torch.testing.assert_close(value, -2.0 * (relation[batch.labels] * says).sum(1).mean())


@pytest.mark.parametrize("objective", [CoTuning(torch.eye(4), 1.0), TwoHeads(1.0, CLASSES)])
def test_a_network_without_a_source_head(objective):
    net = build(SMALL, SIZE, 4, 0)
    with pytest.raises(UserError, match=r"head \(=source_head\): must be one of head"):
        objective.bind(net, STEPS)(two_batches())


@pytest.mark.parametrize("backbone", [SMALL, Torchvision("squeezenet1_0")])
def test_a_head_is_kept(backbone):
    net, rows = build(backbone, 32, 4, 0), [3, 1]
    old = head_of(net)[2]
    for kept, its in ((keep_head(net, "a", old), slice(None)), (keep_head(net, "b", old, rows), rows)):
        assert torch.equal(kept.weight, old.weight[its])
        assert torch.equal(kept.bias, old.bias[its])
        assert kept.weight.data_ptr() != old.weight.data_ptr()


# ------------------------------------------------------------------------------------------------- DELTA, and BSS


def by_hand(kind: type[Objective], extra) -> tuple[Objective, nn.Module, Batch]:
    """An objective's value beyond cross-entropy, and its gradient, are those of `extra`, in training."""
    (one,), batch = runs(kind, 1), two_batches()
    net, twin = one.net.train(), copy.deepcopy(one.net).train()
    value = one.objective.bind(net, STEPS)(batch)
    wanted = F.cross_entropy(twin(batch.images), batch.labels, label_smoothing=STEPS.label_smoothing)
    value.backward()
    twin.load_state_dict(one.net.state_dict())
    total = extra(twin, batch, one.objective)
    assert total > 1e-4
    torch.testing.assert_close(value, wanted + total)
    (F.cross_entropy(twin(batch.images), batch.labels, label_smoothing=STEPS.label_smoothing) + total).backward()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_delta_by_hand():
    """Position by position, from networks that are run layer by layer."""

    def extra(net, batch, objective):
        total, now, then = 0, batch.images, batch.images
        for name, child in list(net.named_children())[:-3]:
            if name.startswith("conv"):
                fresh, old = child.conv(now), objective.before.get_submodule(name).conv(then)
                channels, (height, width) = fresh.shape[1], fresh.shape[2:]
                for c in range(channels if name != "conv1" else 0):
                    weight = objective.weights[f"{name}.conv"][c]
                    square = ((fresh[:, c] - old[:, c].detach()) ** 2).sum()
                    total = total + 0.1 / len(now) * channels / (height * width) * weight / 2 * square
            now, then = child(now), objective.before.get_submodule(name)(then)
        return total

    by_hand(DELTA, extra)


def test_channels_weigh_what_the_loss_grows_by_without_them():
    """By whole passes, each of a network of its own, under scikit-learn's head."""
    net, sample = build(SMALL, SIZE, 4, 0), pictures(20)
    with torch.no_grad():
        net.train()(two_batches().images)  # statistics of its own
    before = copy.deepcopy(net.state_dict())
    found = channel_weights(net, sample)
    assert list(found) == [f"conv{i}.conv" for i in (2, 3, 4, 5)]
    assert all(map(torch.equal, net.state_dict().values(), before.values())), "it is as it was"
    assert not any("forward" in vars(module) for module in net.modules())
    x = read(net, sample, ["representation"])["representation"]
    penalty = 0.1 * x.var(0, correction=0).mean().item() * len(x)
    head = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(x.numpy(), sample.labels.numpy())

    def loss(of: nn.Module) -> float:
        return log_loss(sample.labels, head.predict_proba(read(of, sample, ["representation"])["representation"]))

    for name, weights in found.items():
        grown = []
        for c in range(8):
            without = copy.deepcopy(net)
            without.get_submodule(name).weight.data[c] = 0
            grown.append(loss(without) - loss(net))
        grown = torch.tensor(grown)
        wanted = ((grown - grown.mean()) / grown.std(correction=0) / 5).exp()
        torch.testing.assert_close(weights, (wanted / wanted.sum()).float(), rtol=0.02, atol=1e-3)
        assert weights.max() > 1.2 * weights.min()


def test_weights_of_channels_are_found_once_and_from_some_images(monkeypatch):
    calls = []
    monkeypatch.setattr(objectives, "channel_weights", lambda net, sample: calls.append(sample) or {})
    pull = DELTA(build(SMALL, SIZE, 4, 0), pictures(), 0.01)
    assert not calls, "a network that is only built asks for none"
    for _ in range(3):
        pull.bind(build(SMALL, SIZE, 4, 0), STEPS)
    assert len(calls) == 1


def test_bss_by_hand():
    """The smallest eigenvalues of the features' Gram matrix are the squares of singular values."""

    def extra(net, batch, objective):
        features = batch.images
        for name, child in net.named_children():
            features = child(features) if name != "head" else features
        return 0.01 * torch.linalg.eigvalsh((features @ features.T).double())[:2].sum().float()

    by_hand(BSS, extra)


def test_bss_is_nothing_for_features_of_low_rank():
    net, (one, *_) = build(SMALL, SIZE, 4, 0).eval(), two_batches().images
    batch = Batch(one[None].repeat(5, 1, 1, 1), torch.tensor([0, 1, 2, 3, 0]))
    values = [o.bind(net, STEPS)(batch) for o in (BSS(1.0, 4), CrossEntropy(), BSS(1.0, 5))]
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-5)
    assert values[2] > values[1] + 1e-3


def test_what_bss_lacks():
    with pytest.raises(UserError, match=r"bss \(=SqueezeNet\): wants a network whose head is a linear layer"):
        BSS(1.0).bind(build(Torchvision("squeezenet1_0"), 32, 4, 0), STEPS)
    with pytest.raises(UserError, match=r"k \(=17\): a batch of features has 16 singular values"):
        BSS(1.0, 17).bind(build(SMALL, SIZE, 4, 0), STEPS)
    assert not BSS.capturable
