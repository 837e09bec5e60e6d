"""What each block of a representation reaches alone, and how old and new units fare in training."""

import copy
from dataclasses import replace

import pytest
from small_world import run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure import Blocks, UnitTrace
from transferlab.measure.unit_trace import QUANTITIES, UnitWatcher
from transferlab.methods import FineTune, Grow, Probe
from transferlab.nets.build import build, head_of
from transferlab.run import work
from transferlab.specs import AlexNet, OneOf, Recipe, ResNet, Source, Subset, Target, Torchvision, Trial
from transferlab.train.read import predict

RECIPE = Recipe(steps=30, batch=16, lr=0.003, augment="none")
BACKBONE = AlexNet((8, 12, 16, 16, 12), (32, 24))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01))
TARGET = Target("synthetic:0.5", 24, Subset(classes=6, per_class=5))


def trial(*measures, **given) -> Trial:
    method = Grow(**({"recipe": RECIPE, "how": "widen", "units": (12,)} | given))
    return Trial(TARGET, method, BACKBONE, 1, SOURCE, measures)


def tuned(*measures, **given) -> Trial:
    return replace(trial(*measures), method=FineTune(RECIPE, **given))


def network():
    return build(BACKBONE, 24, 7, seed=3)


@pytest.mark.parametrize("norm", [None, "none", "batch"])
def test_blocks_alone_are_what_is_left_when_the_head_cannot_see_the_other(norm, tmp_path):
    with trainings() as seen:
        found = run(tmp_path, trial(Blocks(), scope="new", norm=norm), network())
    images = target_sample(TARGET, "test", 1)
    for name, other in (("accuracy_old", slice(24, None)), ("accuracy_new", slice(24))):
        alone = copy.deepcopy(seen[0].run.trained)
        head_of(alone)[2].weight.data[:, other] = 0
        right = predict(alone, images).argmax(1) == images.labels
        assert found[name] == pytest.approx(right.double().mean().item(), abs=1e-5)


def test_blocks_of_a_network_that_did_not_grow_are_those_that_are_named(tmp_path):
    found = run(tmp_path / "seen", tuned(Blocks((16, 8)), freeze="fc7"), network())
    plain = run(tmp_path / "plain", tuned(freeze="fc7"), network())
    assert found.keys() - plain.keys() == {"accuracy_old", "accuracy_new"}
    assert plain.items() <= found.items()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (tuned(Blocks((16, 9))), r"blocks \(=\[16, 9\]\): must be two; the head reads 24 units"),
        (tuned(Blocks()), r"blocks \(=\[24\]\): must be two; the head reads 24 units"),
        (trial(Blocks(), how="deepen"), r"blocks \(=\[12\]\): must be two; the head reads 12 units"),
        (trial(Blocks(), how="normalise", units=()), r"blocks \(=\[24\]\): must be two; the head reads 24 units"),
        (tuned(UnitTrace()), r"unit trace \(=AlexNetModule\): wants an FC7 with one block of new units"),
        (trial(UnitTrace(), how="deepen"), r"unit trace \(=AlexNetModule\): wants an FC7 with one block of new units"),
    ],
)
def test_what_has_no_two_blocks_is_refused_before_any_training(asked, message, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "fit_together", lambda *a, **k: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=message):
        run(tmp_path, asked, network())


def test_the_head_of_squeezenet_reads_no_blocks(tmp_path):
    source, target = replace(SOURCE, size=64), replace(TARGET, size=64)
    asked = Trial(target, FineTune(RECIPE), Torchvision("squeezenet1_0"), 1, source, (Blocks((500, 12)),))
    with pytest.raises(UserError, match=r"blocks \(=SqueezeNet\): wants a network whose head is a linear layer"):
        run(tmp_path, asked, build(asked.backbone, 64, 7, seed=0))


def test_blocks_of_widened_networks_of_other_kinds(tmp_path):
    assert "accuracy_new" in run(tmp_path, trial(Blocks(), how="widen-twice", units=(4, 12)), network())
    source, target = replace(SOURCE, size=16), replace(TARGET, size=16)
    few = Grow(replace(RECIPE, steps=2), "widen", (12,), scope="new")
    asked = Trial(target, few, ResNet(18), 1, source, (Blocks(),))
    assert "accuracy_new" in run(tmp_path, asked, build(ResNet(18), 16, 7, seed=0))


def test_what_trains_nothing_has_nothing_to_look_at():
    with pytest.raises(UserError, match=r"measures \(=1\): probe trains nothing"):
        replace(trial(Blocks()), method=Probe())


# --------------------------------------------------------------------------------------------------------- unit trace


@pytest.mark.parametrize("given", [{}, {"norm": "none"}, {"scope": "fc7-new"}, {"scope": "new", "norm": "none"}])
def test_watching_changes_nothing_but_what_is_known(given, tmp_path):
    plain = run(tmp_path / "plain", trial(**given), network())
    seen = run(tmp_path / "seen", trial(UnitTrace(), **given), network())
    assert plain == {name: seen[name] for name in plain}
    assert set(seen) - set(plain) == set(UnitTrace.columns)
    looks = len(seen["at"])
    assert looks == UnitTrace().looks == len(seen["activation_rms_old"]) == len(seen["logit_contribution_new"])
    assert len(seen["weight_change_new"]) == looks - 1
    assert (seen["at"][0], seen["at"][-1]) == (0, RECIPE.steps - 1)
    moving = [f"{name}_{block}" for name in QUANTITIES for block in ("old", "new")]
    moving.remove("weight_change_old")
    assert all(v > 0 for name in moving for v in seen[name])
    assert all((v == 0) == (given.get("scope") == "new") for v in seen["weight_change_old"]), "frozen units rest"


def test_sizes_are_those_that_normalisation_gives(tmp_path):
    seen = run(tmp_path, trial(UnitTrace(looks=2), scale=10.0), network())
    assert seen["at"] == [0, RECIPE.steps - 1]
    assert seen["activation_rms_old"][0] == pytest.approx(10 / 24**0.5, rel=1e-3)
    assert seen["activation_rms_new"][0] == pytest.approx(10 / 12**0.5, rel=1e-3)


def test_a_watched_arm_has_the_search_of_the_same_arm_unwatched():
    rates = replace(RECIPE, lr=OneOf(0.01, 0.03))
    one, two = (trial(*measures, recipe=rates) for measures in ((), (UnitTrace(),)))
    assert [t.key for t in one.searches()] == [t.key for t in two.searches()]
    accuracy = {t.key: t.recipe.lr for t in one.searches()}
    assert (one.resolve(accuracy).recipe.lr, two.resolve(accuracy).recipe.lr) == (0.03, 0.03)
    assert two.resolve(accuracy).measures == (UnitTrace(),)
    assert one.resolve(accuracy).key == two.resolve(accuracy).key, "one training is one training"


def test_only_a_network_with_fc7_can_be_watched():
    with pytest.raises(UserError, match=r"unit trace \(=AlexNetModule\): wants an FC7 with one block of new units"):
        UnitWatcher(network(), [0, 5])
