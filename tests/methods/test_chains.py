"""Chains: a trial starts from the network that another one left."""

from dataclasses import replace

import pytest
import torch
from small_world import context, give, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.measure import Forgetting
from transferlab.methods import L2SP, Concepts, FineTune, Grow, Probe, SourceTask
from transferlab.nets.build import build
from transferlab.run.queue import Job
from transferlab.run.work import start
from transferlab.specs import AlexNet, OneOf, Recipe, Source, Subset, Target, Trained, Trial
from transferlab.store import Store
from transferlab.train.fit import fit

RECIPE = Recipe(steps=12, batch=16, lr=0.003, augment="none")
BACKBONE = AlexNet((8, 12, 16, 16, 12), (32, 24))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01))
TARGET = Target("synthetic:0.5", 24, Subset(classes=6, per_class=5))
OTHER = Target("synthetic:0.2", 24, Subset(classes=4, per_class=5))
WIDEN = Grow(RECIPE, "widen", (12,))


def first(method=WIDEN, seed: int = 1) -> Trial:
    return Trial(OTHER, method, BACKBONE, seed, SOURCE)


def chained(method=WIDEN, before: Trial | None = None) -> Trial:
    before = before or first()
    return Trial(TARGET, method, BACKBONE, before.seed, before)


def network():
    return build(BACKBONE, 24, 7, seed=3)


def test_a_chain_is_one_task_after_the_other(tmp_path):
    """By hand: the first task's network, grown again for the second, by as many units as before."""
    store = context(tmp_path)
    give(tmp_path, first().start, network())
    ready = start(Job(first(), (first(),)), store)
    drawn = ready.net.fc7.linear.new[0].weight.detach().clone()
    fit(ready)
    _rooted(tmp_path / "chain")
    found = run(tmp_path / "chain", chained())
    give(tmp_path, Trained(first()), ready.trained)
    again = chained().prepare(store)
    losses = fit(start(Job(chained(), (chained(),)), store)).losses
    assert found["train_loss"] == round(losses[-20:].mean().item(), 4)
    wide = again.net.fc7.linear
    assert wide.blocks == [24, 12, 12]
    assert all(p.requires_grad for p in again.net.parameters())
    both = torch.stack([wide.new[1].weight.flatten(), drawn.flatten()])
    assert both.corrcoef()[0, 1].abs() < 0.2, "the second growth is drawn anew"
    fast = {id(p) for part, by in again.lr_multipliers.items() for p in part.parameters() if by == 10}
    names = {name for name, p in again.net.named_parameters() if id(p) in fast}
    units = {"fc7.linear.new.1.weight", "fc7.linear.new.1.bias", "fc7.relu.new_norm.gain.2"}
    assert names == units | {"head.weight", "head.bias"}, "units of the first task are old ones"


def _rooted(root) -> None:
    """Put the source's network where a chain at `root` begins."""
    give(root, first().start, network())


@pytest.mark.parametrize(
    "method", [FineTune(RECIPE, freeze="fc7"), FineTune(RECIPE, batch_norm="frozen"), replace(WIDEN, scope="new")]
)
def test_what_was_frozen_in_the_first_task_learns_in_the_second(method, tmp_path):
    asked = chained(FineTune(RECIPE), first(method))
    _rooted(tmp_path)
    with trainings() as seen:
        run(tmp_path, asked)
    before = context(tmp_path).load(Trained(first(method)), 24).state_dict()
    torch.testing.assert_close(before["fc6.linear.weight"], network().state_dict()["fc6.linear.weight"], rtol=0, atol=1)
    after = seen[1].run.trained.state_dict()
    moved = {n for n, v in after.items() if v.shape != before[n].shape or not torch.equal(v, before[n])}
    assert {n for n in after if "num_batches" not in n} <= moved


def test_frozen_layers_of_the_first_task_are_the_sources(tmp_path):
    _rooted(tmp_path)
    run(tmp_path, chained(FineTune(RECIPE), first(FineTune(RECIPE, freeze="fc7"))))
    left = context(tmp_path).load(Trained(first(FineTune(RECIPE, freeze="fc7"))), 24).state_dict()
    for name, value in network().state_dict().items():
        assert name.startswith("head") or torch.equal(left[name], value), name


def test_a_first_task_is_trained_once_for_all_that_start_from_it(tmp_path):
    _rooted(tmp_path)
    asked = [chained(FineTune(RECIPE)), chained(WIDEN), first(), chained(Probe())]
    with trainings() as seen:
        Lab(tmp_path, workers=1, device="cpu", quiet=True).run(asked)
    assert sorted(one.job.key for one in seen) == sorted(t.key for t in asked[:3])
    file = Store(tmp_path).file(Trained(first()))
    before = file.read_bytes()
    run(tmp_path, chained(FineTune(replace(RECIPE, lr=0.01))))
    assert file.read_bytes() == before


def test_a_network_left_by_a_trial_is_a_start_of_its_own(tmp_path):
    """A third task, a probe, and a pull towards where the second began."""
    _rooted(tmp_path)
    second, free = (chained(FineTune(RECIPE, hold=hold)) for hold in (L2SP(100.0), None))
    third = chained(FineTune(RECIPE), second)
    with trainings() as seen:
        run(tmp_path, third)
        probed = run(tmp_path, chained(Probe(), second))
    assert [one.job.key for one in seen] == [first().key, second.key, third.key]
    assert probed["validation_accuracies"]
    run(tmp_path, chained(FineTune(RECIPE), free))

    def moved(trial: Trial) -> float:
        one, two = (context(tmp_path).load(Trained(t), 24).state_dict() for t in (first(), trial))
        return sum((v - two[n]).norm().item() for n, v in one.items() if "weight" in n and not n.startswith("head"))

    assert 0 < moved(second) < 0.5 * moved(free)


def test_a_chain_is_searched_in_its_last_step_and_kept_as_one_arm():
    wide = chained(replace(WIDEN, recipe=replace(RECIPE, lr=OneOf(0.001, 0.003))))
    assert {t.source.at_seed(1) for t in wide.searches()} == {first()}
    assert {t.source.seed for t in wide.searches()} == {0, 1, 2, 3}
    assert Trial.from_dict(wide.to_dict()) == wide
    assert wide.columns()["via"].endswith("synthetic:0.2 (4 classes, 5 a class), grow lr 0.003")
    assert (first().columns()["via"], wide.columns()["source"]) == (None, "synthetic:source")


def test_chains_have_keys_of_their_own():
    asked = [
        first(),
        chained(),
        chained(FineTune(RECIPE)),
        chained(before=first(FineTune(RECIPE))),
        chained(before=chained()),
    ]
    assert len({t.key for t in asked}) == len({t.shape for t in asked}) == 5
    assert len({chained(before=first(seed=seed)).shape for seed in range(3)}) == 1, "seeds train together"
    measured = replace(first(FineTune(RECIPE)), measures=(Forgetting(),))
    assert chained(before=measured).key == chained(before=replace(measured, measures=())).key
    assert Trained(measured).key == Trained(first(FineTune(RECIPE))).key


def test_a_first_task_that_diverged_is_the_reason(tmp_path):
    _rooted(tmp_path)
    asked = chained(FineTune(RECIPE), first(FineTune(replace(RECIPE, lr=99.0), head_lr=99.0)))
    row = Lab(tmp_path, workers=1, device="cpu", quiet=True).run([asked]).iloc[0]
    assert row["status"].startswith("diverged: source: the loss was no longer finite by step")
    with trainings() as seen:
        Lab(tmp_path, workers=1, device="cpu", quiet=True).run([asked])
    assert not seen, "it is not tried again"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chained(before=first(Probe())), r"source \(=.*probe, seed 1\): trains no network"),
        (lambda: Trained(first(Probe())), r"source \(=.*probe, seed 1\): trains no network"),
        (lambda: replace(chained(), seed=2), r"source \(=.*\): must have the trial's own backbone and seed, 2"),
        (
            lambda: replace(chained(), backbone=AlexNet((8, 12, 16, 16, 12), (32, 25))),
            r"source \(=.*\): must have the trial's own backbone and seed, 1",
        ),
        (lambda: replace(chained(), target=replace(TARGET, size=32)), r"size \(=32\): AlexNet keeps its source's, 24"),
        (
            lambda: replace(chained(FineTune(RECIPE)), measures=(Forgetting(),)),
            r"measure \(=forgetting\): asks for the source's own images; take a Source, no weights and no chain",
        ),
        (lambda: chained(SourceTask()), r"target \(=.*\): source-task asks of the source's own images; see of_source"),
        (lambda: chained(Concepts()), r"target \(=.*\): concepts asks of the source's own images; see of_source"),
    ],
)
def test_chains_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_trials_network_is_asked_of_its_own_images(tmp_path):
    """As its record says: with the head that it left."""
    _rooted(tmp_path)
    own = Trial(replace(OTHER, subset=Subset(classes=4)), SourceTask(), BACKBONE, 1, first())
    assert run(tmp_path, own)["accuracy"] == run(tmp_path, first())["accuracy"]
