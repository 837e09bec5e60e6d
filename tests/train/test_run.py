"""What a run may ask of its training: rates by step, rates from gradients, snapshots, and somebody who watches."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from test_fit import RECIPE, SIZE, SMALL, run_of
from test_objectives import STEPS
from test_trainers import alone, capture, killed, pictures, together
from torch import nn

from transferlab.errors import UserError
from transferlab.nets.build import build
from transferlab.nets.taps import freeze
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.feed import Feed
from transferlab.train.fit import fit, fit_together
from transferlab.train.frozen import shortened
from transferlab.train.optim import RelativeGradientNorm, factor
from transferlab.train.run import Run


def resumed(make, at: int, folder, monkeypatch) -> tuple[torch.Tensor, list[Run]]:
    """Losses and runs of a training that was killed after step `at` and went on."""
    killed(monkeypatch, at, folder / "c.pt", lambda kept: together(make(), kept))
    runs = make()
    return together(runs, Checkpoint(folder / "c.pt", 10**6)), runs


def states(runs: list[Run]) -> list[torch.Tensor]:
    return [v for run in runs for v in run.trained.state_dict().values()]


# ------------------------------------------------------------------------------------------------- a rate for each step

UNFREEZING = {"fc7": [0.0] * 5 + [0.5] * 15, "fc6": [0.0] * 10 + [0.25] * 10}


def unfrozen(k: int = 0, recipe=STEPS) -> Run:
    """The body never learns; FC6 and FC7 begin to, one after the other."""
    net = build(SMALL, SIZE, 4, k)
    freeze(net, "pool5")
    steps = {net.get_submodule(name): factors for name, factors in UNFREEZING.items()}
    return run_of(net, pictures(), replace(recipe, lr=0.01 * (k + 1)), k, lr_multipliers=steps | {net.head: 2.0})


def test_gradual_unfreezing_is_that_of_a_schedule_by_hand():
    """Torch's own optimiser, over layers that are frozen and let go."""
    run = unfrozen()
    net = copy.deepcopy(run.net)
    feed = Feed([run])
    block = feed.block(20)
    parts = {"head": [2.0] * 20} | UNFREEZING
    groups = [
        {"params": [p], "weight_decay": STEPS.weight_decay * (p.ndim > 1), "name": name}
        for name in parts
        for p in net.get_submodule(name).parameters()
    ]
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    net.train()
    for module in net.modules():
        if getattr(module, "frozen", False):
            module.eval()
    losses = []
    for step in range(20):
        for group in sgd.param_groups:
            group["lr"] = run.recipe.lr * parts[group["name"]][step] * factor(run.recipe, step)
            for p in group["params"]:
                p.requires_grad_(parts[group["name"]][step] > 0)
        batch = feed.batch(block, step)
        loss = nn.functional.cross_entropy(net(batch.images), batch.labels, label_smoothing=0.1)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    assert alone(run).tolist() == pytest.approx(losses, rel=1e-5)
    for a, b in zip(run.net.state_dict().values(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_rates_by_step_packed_captured_and_resumed(monkeypatch, tmp_path):
    make = lambda: [unfrozen(k) for k in range(3)]  # noqa: E731
    losses = together(make())
    for row, run in zip(losses, make(), strict=True):
        torch.testing.assert_close(row, alone(run), rtol=1e-6, atol=1e-6)
    assert torch.equal(resumed(make, 8, tmp_path, monkeypatch)[0], losses)
    capture(monkeypatch)
    torch.testing.assert_close(together(make()), losses, rtol=1e-6, atol=1e-6)


def test_as_many_rates_as_steps():
    net = build(SMALL, SIZE, 4, 0)
    with pytest.raises(UserError, match=r"lr_multipliers \(=19\): must be one, or 20, the recipe's steps"):
        run_of(net, recipe=STEPS, lr_multipliers={net.head: [1.0] * 19})


# ---------------------------------------------------------------------------------------------- rates from gradients


def scaled(k: int = 0, every: int = 8) -> Run:
    net = build(SMALL, SIZE, 4, k)
    nn.init.zeros_(net.head.bias)
    recipe = replace(STEPS, lr=0.01 * (k + 1))
    return run_of(
        net, pictures(), recipe, k, lr_multipliers={net.head: 2.0}, gradient_scale=RelativeGradientNorm(every, 3)
    )


def by_hand(run: Run, every: int, count: int) -> tuple[nn.Module, list[float], list[dict[str, float]]]:
    """Train with multipliers that are found by plain autograd."""
    net = copy.deepcopy(run.net).to(memory_format=torch.channels_last).train()
    feed = Feed([run])
    block = feed.block(20)
    norms = {f"{n}.{p}" for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d) for p in ("weight", "bias")}
    groups = [{"params": [p], "weight_decay": 5e-4 * (p.ndim > 1), "name": n} for n, p in net.named_parameters()]
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)

    def loss_of(network: nn.Module, step: int) -> torch.Tensor:
        batch = feed.batch(block, step)
        return nn.functional.cross_entropy(network(batch.images), batch.labels, label_smoothing=0.1)

    losses, found = [], []
    for step in range(20):
        if step % every == 0:
            ratios: dict[str, float] = {}
            for i in range(min(step, 20 - count), min(step, 20 - count) + count):
                other = copy.deepcopy(net)
                loss_of(other, i).backward()
                for n, p in other.named_parameters():
                    ratios[n] = (
                        ratios.get(n, 0) + (p.grad.norm() / p.norm()).item() / count if p.norm() else float("inf")
                    )
            largest = max(r for n, r in ratios.items() if n not in norms and r < float("inf"))
            found.append({n: 1.0 if n in norms or r == float("inf") else r / largest for n, r in ratios.items()})
        loss = loss_of(net, step)
        sgd.zero_grad()
        loss.backward()
        for group in sgd.param_groups:
            head = 2.0 if group["name"].startswith("head") else 1.0
            group["lr"] = run.recipe.lr * head * found[-1][group["name"]] * factor(run.recipe, step)
        sgd.step()
        losses.append(loss.item())
    return net, losses, found


def test_relative_gradient_norms_by_hand():
    run = scaled()
    net, losses, found = by_hand(run, 8, 3)
    assert len(found) == 3
    assert all(max(m.values()) == 1 and min(m.values()) < 0.5 for m in found)
    assert found[0]["head.bias"] == 1.0  # of zeros
    assert found[1] != found[0]
    assert alone(run).tolist() == pytest.approx(losses, rel=1e-4)
    for a, b in zip(run.net.state_dict().values(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("at", [5, 8, 9])
def test_multipliers_packed_captured_and_resumed(at, monkeypatch, tmp_path):
    make = lambda: [scaled(k) for k in range(2)]  # noqa: E731
    losses = together(make())
    for k, row in enumerate(losses):
        torch.testing.assert_close(row, alone(scaled(k)), rtol=1e-5, atol=1e-5)
    assert torch.equal(resumed(make, at, tmp_path, monkeypatch)[0], losses)
    single = tmp_path / "single"
    assert torch.equal(resumed(lambda: [scaled()], at, single, monkeypatch)[0][0], alone(scaled()))
    capture(monkeypatch)
    torch.testing.assert_close(together(make()), losses, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("i", "count", "which"), [(0, 50, [0, 1, 2]), (49, 50, [47, 48, 49]), (0, 2, [0, 1])])
def test_which_batches_are_read(i, count, which):
    assert list(RelativeGradientNorm(10, 3).which(i, count)) == which


# -------------------------------------------------------------------------------------------------------- snapshots

BLOCK = 10  # steps that are drawn at once, in these tests
LONG = replace(RECIPE, steps=BLOCK + 8)


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr("transferlab.train.fit.BLOCK", BLOCK)


def plain(k: int = 0, recipe=LONG, frozen: str | None = None, **more) -> Run:
    net = build(SMALL, SIZE, 4, k)
    if frozen:
        freeze(net, frozen)
    return run_of(net, pictures(), replace(recipe, lr=0.01 * (k + 1)), k, **more)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("count", [1, 2])
def test_snapshots_are_the_networks_of_runs_that_stopped_there(count):
    steps = (0, 1, 6, BLOCK, BLOCK + 3, LONG.steps)
    whole = fit_together([plain(k, snapshots=steps) for k in range(count)])
    for step in steps[1:]:
        stopped = [plain(k, stop=step) for k in range(count)]
        for fitted, kept, run in zip(fit_together(stopped), whole, stopped, strict=True):
            assert torch.equal(fitted.losses, kept.losses[:step])
            assert kept.snapshots[step].keys() == run.net.state_dict().keys()
            assert all(torch.equal(v, run.net.state_dict()[n]) for n, v in kept.snapshots[step].items())
    start = plain().net.state_dict()
    assert all(torch.equal(v, start[n]) for n, v in whole[0].snapshots[0].items())


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("count", [1, 2])
def test_snapshots_survive_an_interruption(count, tmp_path, monkeypatch):
    make = lambda: [plain(k, snapshots=(5, 15)) for k in range(count)]  # noqa: E731
    resumed(make, BLOCK + 1, tmp_path, monkeypatch)
    for a, b in zip(fit_together(make(), Checkpoint(tmp_path / "c.pt", 10**6)), fit_together(make()), strict=True):
        assert a.snapshots.keys() == b.snapshots.keys() == {5, 15}
        for step in (5, 15):
            assert all(map(torch.equal, a.snapshots[step].values(), b.snapshots[step].values()))


@pytest.mark.parametrize("count", [1, 2])
def test_snapshots_behind_a_frozen_front_are_of_the_whole_network(count):
    recipe = replace(STEPS, augment="none")
    runs = [shortened(plain(k, recipe, "pool5", snapshots=(20,))) for k in range(count)]
    for fitted, run in zip(fit_together(runs), runs, strict=True):
        state = run.trained.state_dict()
        assert fitted.snapshots[20].keys() == state.keys()
        assert all(torch.equal(v, state[n]) for n, v in fitted.snapshots[20].items())


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"stop": 0}, r"stop \(=0\): must be 1 to 18, the recipe's steps"),
        ({"stop": 19}, r"stop \(=19\): must be 1 to 18"),
        ({"snapshots": (3, 19)}, r"snapshots \(=19\): must be 0 to 18, the steps that are taken"),
        ({"snapshots": (9,), "stop": 8}, r"snapshots \(=9\): must be 0 to 8"),
    ],
)
def test_steps_that_are_not_taken(more, rule):
    with pytest.raises(UserError, match=rule):
        plain(**more)


# --------------------------------------------------------------------------------------------------------- watchers


class Look:
    """Notes a weight before some steps change it, and what goes into the head then."""

    def __init__(self, steps=(0, 3, 11)) -> None:
        self.steps, self.found = steps, {}

    def bind(self, net: nn.Module) -> None:
        self.net = net

    @contextmanager
    def look(self, step: int):
        weight = self.net.head.weight.detach().clone()
        sizes = []
        handle = self.net.conv1.register_forward_hook(lambda *_: sizes.append("front"))
        other = self.net.head.register_forward_pre_hook(lambda _, x: sizes.append(x[0].norm().item()))
        yield
        handle.remove()
        other.remove()
        assert torch.equal(self.net.head.weight, weight)  # the step is not taken yet
        self.found[step] = [weight.norm().item(), sizes[-1], *map(str, sizes[:-1])]

    def state(self) -> dict:
        return self.found

    def restore(self, state: dict) -> None:
        self.found = dict(state)


def looked(k: int = 0, **more) -> Run:
    return plain(k, STEPS, watchers=(Look(),), **more)


def found(runs: list[Run]) -> list[dict]:
    return [run.watchers[0].found for run in runs]


def test_watchers_see_the_network_that_is_trained():
    run = looked()
    alone(run)
    assert list(run.watchers[0].found) == [0, 3, 11]
    assert len({seen[0] for seen in run.watchers[0].found.values()}) == 3
    stopped = plain(0, STEPS, stop=3)
    alone(stopped)
    assert run.watchers[0].found[3][0] == stopped.net.head.weight.norm().item()


def test_watchers_change_nothing():
    assert torch.equal(alone(looked()), alone(plain(0, STEPS)))


@pytest.mark.parametrize("frozen", [None, "pool5"])
def test_watchers_packed_and_captured(frozen, monkeypatch):
    recipe = replace(STEPS, augment="none")
    make = lambda: [shortened(replace(looked(k, frozen=frozen), recipe=recipe)) for k in range(3)]  # noqa: E731
    runs, separate = make(), make()
    losses = together(runs)
    for run in separate:
        alone(run)
    for a, b in zip(found(runs), found(separate), strict=True):
        assert a.keys() == b.keys()
        for step in a:
            assert a[step][:2] == pytest.approx(b[step][:2], rel=1e-5)
            assert a[step][2:] == b[step][2:] == ["front"] * (frozen is None)
    capture(monkeypatch)
    again = make()
    torch.testing.assert_close(together(again), losses, rtol=1e-6, atol=1e-6)
    assert [each.keys() for each in found(again)] == [each.keys() for each in found(runs)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("at", [3, 4, 12])
def test_watchers_survive_an_interruption(count, at, tmp_path, monkeypatch):
    make = lambda: [looked(k) for k in range(count)]  # noqa: E731
    losses, runs = resumed(make, at, tmp_path, monkeypatch)
    whole = make()
    assert torch.equal(losses, together(whole))
    assert found(runs) == found(whole)
    assert all(map(torch.equal, states(runs), states(whole)))


def test_a_run_is_trained_where_its_network_is():
    assert plain().device == torch.device("cpu")
    assert fit(plain(recipe=replace(STEPS, steps=1))).losses.shape == (1,)
