"""Checkpoints: training that is killed anywhere and goes on ends with the same bits, and loses seconds, not hours."""

import os
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from test_fit import Own, run_of
from torch import nn

from transferlab.specs.recipe import Recipe
from transferlab.train import checkpoint as module
from transferlab.train.checkpoint import EVERY, Checkpoint
from transferlab.train.fit import Diverged, fit, fit_together

BLOCK = 10  # steps that are drawn at once, here
STEPS = BLOCK + 12
RECIPES = {
    "cosine": Recipe(steps=STEPS, batch=6, lr=0.05),
    "milestones": Recipe(steps=STEPS, batch=6, lr=0.05, schedule="step", milestones=(0.3, 0.9), momentum=0.5),
    "plain": Recipe(steps=STEPS, batch=50, lr=0.02, momentum=0.0, augment="none", precision="bf16"),
}


class Killed(BaseException):
    """What the process did not survive."""


def network() -> nn.Module:
    """A network with everything that has a state: batch normalisation, dropout, a frozen layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv2d(4, 6, 3, 2),
            nn.ReLU(),
            nn.Flatten(),
        )
        net.append(nn.Sequential(nn.Linear(54, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)))
    net[4].requires_grad_(False)
    return net


class Clock:
    """A clock that goes one second a step, and an objective that gets killed at a step."""

    def __init__(self) -> None:
        self.now, self.steps, self.kill_at = 0.0, 0, None

    def monotonic(self) -> float:
        return self.now

    def change(self, value, batch) -> torch.Tensor:
        if self.steps == self.kill_at:
            raise Killed
        self.steps += 1
        self.now += 1
        return value


def write_at_once(path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module", autouse=True)
def clock():
    """The clock that checkpoints look at; they are written without waiting for the disk."""
    found = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", found)
        patch.setattr(module, "write_atomically", write_at_once)
        patch.setattr("transferlab.train.fit.BLOCK", BLOCK)
        yield found


def train(
    recipe: Recipe, path, every: float, clock: Clock, kill_at: int | None = None
) -> tuple[nn.Module, torch.Tensor]:
    """Train from the checkpoint; be killed after so many steps of this life."""
    clock.steps, clock.kill_at, net = 0, kill_at, network()
    run = run_of(net, recipe=recipe, seed=5, lr_multipliers={net[-1]: 3.0}, objective=Own(clock.change))
    torch.rand(3)  # other random numbers were drawn before
    return net, fit(run, Checkpoint(path, every) if path else None).losses


@cache
def uninterrupted(kind: str) -> tuple[nn.Module, torch.Tensor]:
    return train(RECIPES[kind], None, 0.0, Clock())


def same(a: tuple[nn.Module, torch.Tensor], b: tuple[nn.Module, torch.Tensor]) -> bool:
    """Whether networks and losses are equal, bit by bit."""
    states = [net.state_dict() for net, _ in (a, b)]
    return torch.equal(a[1], b[1]) and all(
        torch.equal(x, y) for x, y in zip(*(s.values() for s in states), strict=True)
    )


@pytest.mark.parametrize("kind", RECIPES)
@settings(max_examples=4, phases=(Phase.explicit, Phase.generate))
@given(every=st.integers(0, 14), kills=st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=3))
@example(every=0, kills=[0])  # before the first step
@example(every=0, kills=[1])
@example(every=0, kills=[BLOCK - 1])
@example(every=0, kills=[BLOCK])
@example(every=0, kills=[BLOCK + 1, 3, 2])  # the second block, three times
@example(every=BLOCK, kills=[STEPS - 1])
@example(every=0, kills=[STEPS - 1])  # the last step
def test_killed_anywhere_and_gone_on_the_bits_are_the_same(kind, every, kills, clock, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "c.pt"
    reached, between = 0, max(1, every)  # what is kept, and the steps between two writings
    for kill_at in kills:
        if reached + kill_at >= STEPS:
            break
        with pytest.raises(Killed):
            train(RECIPES[kind], path, every, clock, kill_at)
        reached += kill_at // between * between
    result = train(RECIPES[kind], path, every, clock)
    assert same(result, uninterrupted(kind))
    assert clock.steps == STEPS - reached


@pytest.mark.parametrize("steps", [1, BLOCK, STEPS])
def test_killed_when_all_steps_are_done(tmp_path, clock, steps):
    """The last checkpoint is whole, and nothing is left to train."""
    recipe = replace(RECIPES["cosine"], steps=steps)
    first = train(recipe, tmp_path / "c.pt", 0.0, clock)
    again = train(recipe, tmp_path / "c.pt", 0.0, clock)
    assert clock.steps == 0
    assert same(first, again)


@pytest.mark.parametrize(("every", "kill_at"), [(3, 2), (3, 4), (11, 10), (11, 20), (40, 21)])
def test_no_more_is_lost_than_the_time_between_two_writings(tmp_path, clock, every, kill_at):
    with pytest.raises(Killed):
        train(RECIPES["cosine"], tmp_path / "c.pt", every, clock, kill_at)
    assert (tmp_path / "c.pt").exists() == (kill_at >= every)
    assert same(train(RECIPES["cosine"], tmp_path / "c.pt", every, clock), uninterrupted("cosine"))
    assert STEPS - kill_at <= clock.steps <= STEPS - kill_at + every


def test_two_minutes_at_most():
    assert EVERY <= 120
    assert Checkpoint("c.pt").every == EVERY


def test_written_no_more_often_than_asked(tmp_path, clock, monkeypatch):
    written = []
    write = module.write_atomically
    monkeypatch.setattr(module, "write_atomically", lambda *a: (written.append(clock.now), write(*a)))
    began = clock.now
    train(RECIPES["cosine"], tmp_path / "c.pt", 7, clock)
    assert [t - began for t in written] == [7, 14, 21]


def test_the_global_random_state_is_left_alone(tmp_path, clock):
    with pytest.raises(Killed):
        train(RECIPES["cosine"], tmp_path / "c.pt", 0.0, clock, 8)
    torch.manual_seed(3)
    torch.rand(3)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    train(RECIPES["cosine"], tmp_path / "c.pt", 0.0, clock)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kept", [8, BLOCK, BLOCK + 1])
def test_a_pack_goes_on_too(tmp_path, clock, kept):
    def packed(path=None, kill_at=None) -> tuple[list[nn.Module], torch.Tensor]:
        clock.steps, clock.kill_at, nets = 0, kill_at, [network() for _ in range(3)]
        team = [
            run_of(
                net,
                recipe=replace(RECIPES["cosine"], lr=0.01 * k),
                seed=k,
                lr_multipliers={net[-1]: 2.0},
                objective=Own(clock.change),
            )
            for k, net in enumerate(nets, 1)
        ]
        fitted = fit_together(team, Checkpoint(path, 0) if path else None)
        return nets, torch.stack([f.losses for f in fitted])

    with pytest.raises(Killed):
        packed(tmp_path / "c.pt", 3 * kept)
    nets, losses = packed(tmp_path / "c.pt")
    assert clock.steps == 3 * (STEPS - kept)
    wanted, those = packed()
    for a, row, b, other in zip(nets, losses, wanted, those, strict=True):
        assert same((a, row), (b, other))


# -------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize(
    ("bad", "kept"),
    [(0, 8), (8, BLOCK - 1), (0, BLOCK), (BLOCK - 1, BLOCK), (BLOCK, BLOCK), (BLOCK, STEPS), (STEPS - 1, STEPS)],
)
def test_a_run_that_diverges_says_the_same_after_an_interruption(tmp_path, clock, monkeypatch, bad, kept):
    """Also where it was killed between the step that diverged and the look at its block."""
    keep = Checkpoint.keep

    def keep_and_be_killed(self, *state):
        keep(self, *state)
        if clock.steps == kept:
            raise Killed

    def loss(value, batch):
        return clock.change(value, batch) * (torch.nan if done + clock.steps - 1 >= bad else 1)

    def told(path) -> str:
        clock.steps, clock.kill_at = 0, None
        run = run_of(network(), recipe=RECIPES["cosine"], seed=5, objective=Own(loss))
        with pytest.raises((Diverged, Killed)) as caught:
            fit(run, Checkpoint(path, 0) if path else None)
        return str(caught.value)

    done = 0
    wanted = told(None)
    assert wanted.startswith("the loss was no longer finite by step")
    monkeypatch.setattr(Checkpoint, "keep", keep_and_be_killed)
    first = told(tmp_path / "c.pt")
    if first:  # it had diverged before
        assert first == wanted
        return
    monkeypatch.setattr(Checkpoint, "keep", keep)
    done = kept
    assert told(tmp_path / "c.pt") == wanted


# ------------------------------------------------------------------------------------------------------ damaged files


@pytest.fixture
def left(tmp_path, clock):
    """A checkpoint that a run left in its second block."""
    with pytest.raises(Killed):
        train(RECIPES["cosine"], tmp_path / "c.pt", 0.0, clock, BLOCK + 3)
    return tmp_path / "c.pt"


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told_and_training_starts_anew(left, clock, share, capsys):
    os.truncate(left, int(share * left.stat().st_size))
    starts_anew(left, clock, capsys)


def starts_anew(left, clock, capsys, every: float = 0.0) -> None:
    """Check that a line says so, and that nothing is left of the attempt."""
    result = train(RECIPES["cosine"], left, every, clock)
    said = capsys.readouterr().err
    assert re.fullmatch(r"checkpoint \(=.*c\.pt\): cannot be used \(\w+\); training starts anew\n", said)
    assert clock.steps == STEPS
    assert same(result, uninterrupted("cosine"))


@pytest.mark.parametrize("name", ["trainer", "feed", "losses", "random", "step", "snapshots", "watchers"])
def test_a_file_of_other_code_is_told_and_removed(left, clock, capsys, name):
    """Whatever of it had been put back by then."""
    state = torch.load(left)
    del state[name]
    torch.save(state, left)
    starts_anew(left, clock, capsys, every=STEPS + 1)
    assert not left.exists()


def test_weights_of_another_network_are_told(left, clock, capsys):
    state = torch.load(left)
    state["trainer"]["nets"][0]["7.3.weight"] = torch.zeros(9, 9)
    torch.save(state, left)
    starts_anew(left, clock, capsys)


@pytest.mark.parametrize("content", [b"\0" * 5000, b"PK\x03\x04" + b"x" * 200, b"text\n"])
def test_any_other_content_is_told_too(left, clock, content, capsys):
    left.write_bytes(content)
    starts_anew(left, clock, capsys)


# ----------------------------------------------------------------------------------------------------------- in a lab


def test_nothing_is_left_when_the_trial_is_on_record(tmp_path, monkeypatch):
    """Neither of a source nor of a trial, done or diverged."""
    from interruptions import BACKBONE, SOURCE, TARGET, TUNED

    from transferlab.lab import Lab
    from transferlab.methods import FineTune
    from transferlab.specs import Trial
    from transferlab.store import Store

    kept = []
    keep = Checkpoint.keep
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    monkeypatch.setattr(Checkpoint, "keep", lambda self, *state: (keep(self, *state), kept.append(self.path)))
    good = Trial(TARGET, FineTune(TUNED), BACKBONE, 0, SOURCE)
    wild = replace(good, method=FineTune(replace(TUNED, steps=60, lr=99.0)))
    table = Lab(tmp_path, workers=1).run([good, wild])
    assert [t[:8] for t in table["status"]] == ["ok", "diverged"]
    assert len(set(kept)) == 3
    assert not any((Store(tmp_path).root / "checkpoints").iterdir())


def test_a_run_that_ends_sooner_writes_nothing(tmp_path, clock):
    train(RECIPES["cosine"], tmp_path / "c.pt", STEPS + 1, clock)
    assert not (tmp_path / "c.pt").exists()
