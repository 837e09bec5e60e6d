"""A method of one's own, with a loss, a second stream of images and an artefact: all of it is in this file."""

import json
import pickle
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from small_world import context, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)
from torch.nn import functional as F

from transferlab.data.images import source_sample
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods import FineTune
from transferlab.nets.build import new_head
from transferlab.nets.heads import add_head, logits
from transferlab.run import work
from transferlab.seeds import stream
from transferlab.specs import (
    AlexNet,
    Artefact,
    Method,
    OneOf,
    Recipe,
    Source,
    Spec,
    Subset,
    Target,
    Trained,
    Trial,
)
from transferlab.store import Published, Store
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.objectives import CrossEntropy
from transferlab.train.run import Run, Stream
from transferlab.train.trainers import SingleTrainer

RECIPE = Recipe(steps=12, batch=8, lr=0.005)
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01), Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))


# ---------------------------------------------------------------------------------------------------------- the method


@dataclass(frozen=True)
class Partners(Artefact, kind="own-partners", version=1):
    """For every training image of a target, the source images of the nearest mean colour."""

    target: Target
    source: Source
    seed: int
    count: int

    calls: ClassVar[list[str]] = []

    @property
    def shape(self) -> str:
        return self.kind  # handed out together, so that what needs them can train together

    def cost(self) -> float:
        return 0.5

    def evaluate(self, context: Any) -> dict[str, torch.Tensor]:
        Partners.calls.append(self.key)
        samples = context.sample(self.target, "train", self.seed), source_sample(self.source, self.seed)
        own, theirs = (s.pixels[s.rows].double().mean((1, 2)) for s in samples)
        return {"table": torch.cdist(own, theirs).topk(self.count, largest=False).indices}


class Joint(CrossEntropy):
    """Cross-entropy of the target's images, and with some weight that of the source's under a head of their own."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def bind(self, net, recipe):
        def loss(batch):
            (own,) = logits(net, batch.images, ("head",))
            (second,) = logits(net, batch.second.images, ("source_head",))
            return F.cross_entropy(own, batch.labels) + self.weight * F.cross_entropy(second, batch.second.labels)

        return loss


@dataclass(frozen=True)
class JointTune(Method, kind="own-joint", version=1):
    """Go on training on the target, and on source images that look like its own."""

    recipe: Recipe
    weight: float = 0.5
    count: int = 3

    def partners(self, trial: Trial) -> Partners:
        return Partners(trial.target, trial.source, trial.seed, self.count)

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        return (*super().needs(trial), self.partners(trial))

    def prepare(self, trial: Trial, context: Any) -> Run:
        sample, net = context.sample(trial.target, "train", trial.seed), context.network(trial)
        second = source_sample(trial.source, trial.seed).to(context.device)
        head = new_head(net, sample.classes, stream(trial.seed, "head"))
        add_head(net, "source_head", second.classes, stream(trial.seed, "second head"))
        order, table = stream(trial.seed, "target order"), context.arrays(self.partners(trial))["table"]
        streams = Stream(sample, order), Stream(second, stream(trial.seed, "partners"), table)
        return Run(net, streams, self.recipe, order, {head: 3.0}, Joint(self.weight))


# ----------------------------------------------------------------------------------------------------------- its tests


def trial(seed: int = 1, recipe: Recipe = RECIPE, **given) -> Trial:
    return Trial(TARGET, JointTune(recipe, **given), BACKBONE, seed, SOURCE)


def lab(root: Path, **given) -> Lab:
    return Lab(root, workers=1, device="cpu", quiet=True, **given)


@pytest.fixture(autouse=True)
def no_calls():
    Partners.calls.clear()


def test_it_is_a_value():
    again = Spec.from_dict(json.loads(json.dumps(trial().to_dict())))
    assert (again, again.key) == (trial(), trial().key)
    assert pickle.loads(pickle.dumps(trial())) == trial(), "it travels to workers"
    assert len({t.key for t in (trial(), trial(weight=1.0), trial(count=2), trial(2))}) == 4


def test_it_is_planned(tmp_path):
    asked = [trial(), trial(weight=1.0), trial(2)]
    plan = lab(tmp_path).plan(asked)
    assert [t.key for t in plan.runs] == [t.key for t in asked]
    assert [job.training.kind for job in plan.sources] == ["pretrained"] * 2
    made = [asked[0].cost(), *(need.cost() for one in (asked[0], asked[2]) for need in one.needs())]
    assert plan.seconds == pytest.approx(2 * made[0] + sum(made)), "a table a seed, whatever the weight"
    assert not Partners.calls
    assert not (tmp_path / "records").exists()


def test_it_runs_and_is_tabulated(tmp_path):
    asked = [trial(), trial(weight=1.0), trial(2)]
    table = lab(tmp_path).run(asked)
    assert list(table["status"]) == ["ok"] * 3
    assert list(table["weight"]) == [0.5, 1.0, 0.5]
    assert list(table["count"]) == [3, 3, 3]
    assert list(table["method"]) == ["own-joint"] * 3
    assert table[["accuracy", "validation_accuracy", "log_loss", "train_loss"]].notna().all(axis=None)
    assert table["train_loss"].nunique() == 3
    assert sorted(Partners.calls) == sorted({t.method.partners(t).key for t in asked}), "each table is made once"
    for one in asked:
        made = one.method.partners(one)
        assert Store(tmp_path).file(made).is_file()
        assert context(tmp_path).arrays(made)["table"].shape == (20, 3)
    with trainings() as seen:
        assert lab(tmp_path).run(asked).equals(table)
    assert not seen
    assert len(Partners.calls) == 2


def test_it_trains_on_what_it_says(tmp_path):
    """By hand: one step's loss, of images that the table allows."""
    one = trial(recipe=replace(RECIPE, steps=3, lr=0.05, augment="none"), count=1)
    with trainings() as seen:
        run(tmp_path, one)
    ((_, done, fitted),) = [s for s in seen if s.job.trial == one]
    again = one.prepare(context(tmp_path))
    table = context(tmp_path).arrays(one.method.partners(one))["table"]
    assert torch.equal(again.streams[1].table, table)
    assert fitted.losses.shape == (3,)
    assert not torch.equal(done.net.second_heads["source_head"].weight, again.net.second_heads["source_head"].weight)
    free = replace(one, method=replace(one.method, weight=1e-9))
    with trainings() as seen:
        run(tmp_path, free)
    heads = seen[-1].run.net.second_heads["source_head"].weight, again.net.second_heads["source_head"].weight
    torch.testing.assert_close(*heads)
    assert seen[-1].fitted.losses[0] < fitted.losses[0]


def test_in_a_pack_it_trains_as_alone(tmp_path):
    slow = [trial(seed, replace(RECIPE, lr=1e-3)) for seed in (1, 2, 3)]
    found = {}
    for pack in (3, 1):
        with trainings() as seen:
            lab(tmp_path / str(pack), pack=pack).run(slow)
        assert Store(tmp_path / str(pack)).get(slow[0].key)["provenance"].get("together", 1) == pack
        found[pack] = {s.job.key: s.fitted.losses for s in seen if s.job.trial}
    assert found[1].keys() == found[3].keys() == {t.key for t in slow}
    for key, losses in found[3].items():
        torch.testing.assert_close(losses, found[1][key], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("at", [0, 1, 7, 11])
def test_killed_and_gone_on_it_is_the_same(at, tmp_path, monkeypatch):
    """Both streams and both heads are where they were; the source and the table are not made again."""
    whole = run(tmp_path / "whole", trial())
    step, begun = SingleTrainer.step, []

    def killed(self, batch, number):
        if batch.second:
            begun.append(number)
            if len(begun) == at + 1:
                raise KeyboardInterrupt
        return step(self, batch, number)

    monkeypatch.setattr(SingleTrainer, "step", killed)
    monkeypatch.setattr(work, "Checkpoint", partial(Checkpoint, every=0))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", trial())
    Partners.calls.clear()
    assert run(tmp_path / "killed", trial()) == whole
    assert begun == [*range(at + 1), *range(at, RECIPE.steps)]
    assert not Partners.calls
    assert not list((tmp_path / "killed" / "checkpoints").glob("*"))


def test_a_table_that_is_killed_or_damaged_is_made_again(tmp_path):
    first = run(tmp_path, trial())
    file = Store(tmp_path).file(trial().method.partners(trial()))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=r"arrays \(=.*own-partners.*\): cannot be read"):
        assert run(tmp_path, trial(weight=0.25)) != first
    assert len(Partners.calls) == 2


def test_a_table_that_cannot_be_made_is_the_reason(tmp_path, monkeypatch):
    def refuse(self, context):
        raise UserError("colour (=none): there is none")

    monkeypatch.setattr(Partners, "evaluate", refuse)
    with pytest.raises(UserError, match=r"colour \(=none\): there is none"):
        lab(tmp_path).run([trial()])
    assert "colour (=none)" in Store(tmp_path).get(trial().key)["status"]


def test_it_is_searched_and_goes_on_as_others_do(tmp_path):
    """A search over its own field; a chain from what it left, second head and all."""
    asked = trial(weight=OneOf(0.1, 1.0, seeds=(0, 1)))
    with trainings() as seen:
        row = lab(tmp_path).run([asked]).iloc[0]
    assert sum(s.job.trial is not None for s in seen) == 4, "what is reported was trained in the search"
    assert row["weight"] in (0.1, 1.0)
    chosen = lab(tmp_path).resolve(asked)
    chain = Trial(TARGET, FineTune(RECIPE), BACKBONE, 1, chosen)
    assert lab(tmp_path).run([chain])["status"][0] == "ok"
    left = context(tmp_path).load(Trained(chosen), 24)
    assert set(left.second_heads) == {"source_head"}


def test_it_is_published_and_read_without_being_run(tmp_path):
    table = lab(tmp_path / "store").run([trial()])
    published = Published(tmp_path / "results")
    published.write("smoke", "own", [Store(tmp_path / "store").get(trial().key)])
    again = Lab(tmp_path / "empty", run="never", published=published).run([trial()])
    assert again.equals(table[again.columns])
