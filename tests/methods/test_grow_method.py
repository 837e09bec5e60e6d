"""Growing as a method: what is trained how fast, and what is seen of old and new units."""

import copy
from dataclasses import replace

import pytest
import torch
from small_world import small_world  # noqa: F401  (a fixture for the whole module)

from transferlab import methods
from transferlab.backbones import AlexNet
from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.methods import grow
from transferlab.nets.build import build, head_of
from transferlab.nets.grow import deepen
from transferlab.specs import FineTune, Grow, Probe, Recipe, Source, Step, Subset, Target, Trial
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.fit import fit_together
from transferlab.train.optim import parameter_groups
from transferlab.train.pack import Alone
from transferlab.train.predict import predict

CPU = torch.device("cpu")
RECIPE = Recipe(steps=30, batch=16, lr=0.003, augment="none")
BACKBONE = AlexNet((8, 12, 16, 16, 12), (32, 24))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01))
TARGET = Target("synthetic:0.5", 24, Subset(classes=6, per_class=5))
OTHER = Target("synthetic:0.2", 24, Subset(classes=4, per_class=5))


def trial(**given) -> Trial:
    return Trial(TARGET, Grow(**({"recipe": RECIPE, "how": "widen", "units": (12,)} | given)), BACKBONE, 1, SOURCE)


def network():
    return build(BACKBONE, 24, 7, seed=3)


@pytest.mark.parametrize("given", [{}, {"norm": "none"}, {"scope": "fc7-new"}, {"scope": "new", "norm": "none"}])
def test_watching_changes_nothing_but_what_is_known(given):
    plain, seen = (methods.run(trial(**given, **watch), network(), CPU) for watch in ({}, {"watch": True}))
    assert plain == {name: seen[name] for name in plain}
    assert len(seen["at"]) == grow.LOOKS == len(seen["size_old"]) == len(seen["said_new"]) == len(seen["pace_new"]) + 1
    assert (seen["at"][0], seen["at"][-1]) == (0, RECIPE.steps - 1)
    assert all(v > 0 for name in ("size_old", "size_new", "said_old", "said_new", "pace_new") for v in seen[name])
    assert all((v == 0) == (given.get("scope") == "new") for v in seen["pace_old"]), "frozen units do not move"


def test_sizes_are_those_that_normalisation_gives():
    seen = methods.run(trial(watch=True, scale=10.0), network(), CPU)
    assert seen["size_old"][0] == pytest.approx(10 / 24**0.5, rel=1e-3)
    assert seen["size_new"][0] == pytest.approx(10 / 12**0.5, rel=1e-3)


@pytest.mark.parametrize("norm", [None, "none", "batch"])
def test_blocks_alone_are_what_is_left_when_the_head_cannot_see_the_other(norm):
    asked = trial(scope="new", norm=norm)
    ready = methods.prepare(asked, network(), CPU)
    (losses,) = fit_together([ready])
    found = methods.measure(ready.trained, asked, losses, CPU)
    read = target_sample(TARGET, "test", 1)
    for name, other in (("accuracy_old", slice(24, None)), ("accuracy_new", slice(24))):
        alone = copy.deepcopy(ready.trained)
        head_of(alone)[2].weight.data[:, other] = 0
        right = predict(alone, read).argmax(1) == read.labels
        assert found[name] == pytest.approx(right.double().mean().item(), abs=1e-5)


def test_blocks_of_a_network_that_did_not_grow_are_those_that_are_named():
    asked = replace(trial(), method=FineTune(RECIPE, freeze="fc7", blocks=(16, 8)))
    found = methods.run(asked, network(), CPU)
    plain = methods.run(replace(asked, method=replace(asked.method, blocks=None)), network(), CPU)
    assert found.keys() - plain.keys() == {"accuracy_old", "accuracy_new"}
    assert plain.items() <= found.items()
    with pytest.raises(UserError, match=r"blocks \(=\[16, 9\]\): the head reads 24 units"):
        methods.run(replace(asked, method=replace(asked.method, blocks=(16, 9))), network(), CPU)


@pytest.mark.parametrize(("how", "units"), [("deepen", (12,)), ("widen-twice", (4, 12)), ("normalise", ())])
def test_blocks_alone_are_measured_where_the_head_reads_two(how, units):
    assert ("accuracy_new" in methods.run(trial(how=how, units=units), network(), CPU)) == (how == "widen-twice")


@pytest.mark.parametrize("how", [lambda net: net, lambda net: deepen(net, 9)], ids=["as it was", "deepened"])
def test_what_the_head_reads_is_kept_only_for_two_blocks(how, monkeypatch):
    monkeypatch.setattr(grow, "kept_inputs", lambda *a: pytest.fail("it was kept"))
    assert "accuracy_new" not in grow.measure(how(build(BACKBONE, 24, 6, seed=3)), trial(), torch.ones(30), CPU)


def test_counted_parameters():
    found = methods.run(trial(scope="new"), network(), CPU)
    plain, classes = network(), 6
    new = 32 * 12 + 12 + (24 + 12) + (24 + 12) * classes + classes  # units, gains, head
    kept = sum(p.numel() for name, p in plain.named_parameters() if not name.startswith("head"))
    assert found["trained"] == new
    assert found["parameters"] == kept + new


def test_new_units_may_have_a_rate_of_their_own():
    ready = grow.prepare(trial(unit_lr=100.0, norm="none"), network(), CPU)
    head = head_of(ready.net)[2]
    assert ready.multiples.pop(head) == 10
    assert set(ready.multiples.values()) == {100}


def test_spread_is_that_of_new_weights():
    one, ten = (grow.surgery(network(), trial(**given).method, 6, 0).fc7.linear for given in ({}, {"spread": 10.0}))
    torch.testing.assert_close(ten.new[0].weight, 10 * one.new[0].weight)
    torch.testing.assert_close(ten.weight, one.weight)


def test_a_watched_arm_has_the_search_of_the_same_arm_unwatched():
    one, two = (replace(trial(), method=replace(trial().method, recipe=replace(RECIPE, lr=(0.01, 0.03)), watch=w)) for w in (None, True))
    assert one.searches() == two.searches()
    accuracy = {t.key: t.recipe.lr for t in one.searches()}
    assert (one.resolve(accuracy).recipe.lr, two.resolve(accuracy).recipe.lr) == (0.03, 0.03)
    assert two.resolve(accuracy).method.watch
    assert one.resolve(accuracy).key != two.resolve(accuracy).key


def test_only_a_network_with_fc7_can_be_watched():
    with pytest.raises(UserError, match=r"watch \(=AlexNetModule\): wants an FC7 with one block of new units"):
        grow.Watch(network(), 10)


@pytest.mark.parametrize("given", [{}, {"how": "widen-twice", "units": (4, 12)}, {"how": "deepen", "units": (9,), "scope": "fc7-new"}])
def test_killed_and_gone_on_the_bits_are_the_same(given, tmp_path, monkeypatch):
    """Whole networks, and those of which only the last part is trained."""
    step, begun = Alone.step, []

    def killed(self, batch, factor):
        begun.append(factor)
        if len(begun) == 7:
            raise KeyboardInterrupt
        return step(self, batch, factor)

    monkeypatch.setattr(Alone, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        methods.run(trial(**given), network(), CPU, Checkpoint(tmp_path / "c.pt", 0))
    gone_on = methods.run(trial(**given), network(), CPU, Checkpoint(tmp_path / "c.pt", 0))
    assert len(begun) == RECIPE.steps + 1, "every step was taken once, and the seventh begun twice"
    assert gone_on == methods.run(trial(**given), network(), CPU)


@pytest.mark.parametrize(
    "given", [{}, {"norm": "batch"}, {"how": "widen-and-deepen", "units": (12, 9)}, {"how": "widen-twice", "units": (4, 12)}]
)
def test_grown_networks_train_together_as_they_do_alone(given):
    slow = replace(RECIPE, steps=20, lr=1e-4)  # so that rounding stays small
    asked = [replace(trial(**given, recipe=slow), seed=seed) for seed in range(3)]
    packed, separate = ([methods.prepare(t, network(), CPU) for t in asked] for _ in range(2))
    for row, one in zip(fit_together(packed), separate, strict=True):
        torch.testing.assert_close(row, fit_together([one])[0], rtol=1e-5, atol=1e-5)


def chained(method, first=None) -> Trial:
    return replace(trial(), method=replace(method, first=first or Step(OTHER, Grow(RECIPE, "widen", (6,)))))


def test_a_chain_is_one_task_after_the_other():
    """By hand: the first task's network, grown again for the second, by as many units as before."""
    first = replace(trial(), target=OTHER)
    ready = methods.prepare(first, network(), CPU)
    start = ready.net.fc7.linear.new[0].weight.detach().clone()
    fit_together([ready])
    asked = chained(trial().method, Step(OTHER, first.method))
    assert methods.run(asked, network(), CPU) == methods.run(trial(), ready.trained, CPU)
    found = methods.prepare(asked, network(), CPU)
    wide = found.net.fc7.linear
    assert wide.blocks == [24, 12, 12]
    assert all(p.requires_grad for p in found.net.parameters())
    both = torch.stack([wide.new[1].weight.flatten(), start.flatten()])
    assert both.corrcoef()[0, 1].abs() < 0.2, "the second growth is drawn anew"
    fast = {id(p) for part, multiple in found.multiples.items() for p in part.parameters() if multiple == 10}
    names = {name for name, p in found.net.named_parameters() if id(p) in fast}
    units = {"fc7.linear.new.1.weight", "fc7.linear.new.1.bias", "fc7.relu.new_norm.gain.2"}
    assert names == units | {"head.weight", "head.bias"}, "units of the first task are old ones"


def test_new_units_learn_ten_times_as_fast():
    ready = grow.prepare(trial(), network(), CPU)
    groups = parameter_groups(ready.net, RECIPE, ready.multiples)
    fast = {id(p) for g in groups for p in g["params"] if g["peak"] == pytest.approx(10 * RECIPE.lr)}
    named = dict(ready.net.named_parameters())
    assert {name for name, p in named.items() if id(p) in fast} == {n for n in named if ".new" in n or n.startswith("head")}
    assert {g["peak"] for g in groups} == {RECIPE.lr, 10 * RECIPE.lr}


def test_only_chains_that_grow_again_have_keys_of_their_own():
    grown, fixed = Grow(RECIPE, "widen", (6,)), FineTune(RECIPE)
    once = [grown, replace(grown, first=Step(OTHER, fixed)), replace(fixed, first=Step(OTHER, grown))]
    assert not any("grown" in method.canonical for method in once)
    assert (replace(grown, first=Step(OTHER, grown)).grown, replace(grown, first=Step(OTHER, once[2])).grown) == (1, 1)
    again = replace(grown, first=Step(OTHER, replace(grown, first=Step(OTHER, grown))))
    assert again.grown == 2
    assert Grow.from_dict(again.to_dict()) == again
    assert replace(again, first=None) == grown


def test_what_was_frozen_in_the_first_task_learns_in_the_second():
    frozen = Step(OTHER, FineTune(RECIPE, freeze="fc7"))
    ready = methods.prepare(chained(FineTune(RECIPE), frozen), network(), CPU)
    before = {n: v.clone() for n, v in ready.net.state_dict().items()}
    torch.testing.assert_close(before["fc6.linear.weight"], network().state_dict()["fc6.linear.weight"])
    fit_together([ready])
    assert all(not torch.equal(v, before[n]) for n, v in ready.net.state_dict().items() if "num_batches" not in n)


def test_a_chain_is_searched_and_kept_as_one_arm():
    wide = replace(chained(trial().method), method=replace(chained(trial().method).method, recipe=replace(RECIPE, lr=(0.001, 0.003))))
    assert {t.method.first for t in wide.searches()} == {wide.method.first}
    assert wide.targets == (OTHER, TARGET)
    assert Trial.from_dict(wide.to_dict()) == wide
    assert wide.columns()["first"] == "synthetic:0.2 (4 classes, 5 a class), grow"
    assert trial().columns()["first"] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(OTHER, Probe()), r"method \(=probe\): of a step must be fine-tune or grow"),
        (lambda: Step(OTHER, FineTune(replace(RECIPE, lr=(0.1, 0.2)))), r"lr \(=\(0.1, 0.2\)\): of a step must be a single rate"),
        (lambda: chained(trial(watch=True).method), r"first \(=a chain\): is neither watched nor examined"),
        (lambda: chained(FineTune(RECIPE, examine=True)), r"examine \(=True\): compares with the source"),
    ],
)
def test_chains_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
