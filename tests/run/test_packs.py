"""Trials that train together: the same results, fewer at once when memory is short, failures on record."""

import json
import multiprocessing
import os
import time
import weakref
from dataclasses import replace

import pytest
import torch
from interruptions import BACKBONE, TARGET
from test_lab import QUICK, SOURCE, fine_tune, some_trials, source_task

from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods import Scratch
from transferlab.report.stats import effect
from transferlab.run import devices, packs, work
from transferlab.run.context import Context
from transferlab.specs import OneOf, Subset, Trial
from transferlab.store import Store
from transferlab.train.fit import fit_together

pytestmark = pytest.mark.usefixtures("one_world")


@pytest.fixture
def sizes(monkeypatch):
    """How many networks each call of the loop trained."""
    sizes = []

    def counted(runs, **more):
        sizes.append(len(runs))
        return fit_together(runs, **more)

    monkeypatch.setattr(work, "fit_together", counted)
    return sizes


def test_trials_of_one_shape_train_together(tmp_path, sizes):
    trials = [*some_trials(range(3)), *scratch(range(3))]
    together = Lab(tmp_path / "together", workers=1, pack=8).run(trials)
    assert sorted(sizes) == [3, 3, 3]  # sources, fine-tuning, scratch
    alone = Lab(tmp_path / "alone", workers=1).run(trials)
    assert (together["status"] == "ok").all()
    assert together["key"].equals(alone["key"])
    assert (together["accuracy"] - alone["accuracy"]).abs().max() <= 0.02
    losses = [t["train_loss"].dropna() for t in (together, alone)]
    assert (losses[0] - losses[1]).abs().max() < 0.01  # sources are kept in half precision
    about = Store(tmp_path / "together").get(fine_tune(0).key)["provenance"]
    assert about["together"] == 3
    assert "together" not in Store(tmp_path / "alone").get(fine_tune(0).key)["provenance"]


def test_final_accuracies_differ_by_nothing(tmp_path, monkeypatch):
    """Longer than rounding stays small: over eight seeds the paired difference has an interval that contains 0."""
    monkeypatch.undo()  # the whole world
    target = replace(TARGET, subset=Subset(classes=5, per_class=20))
    trials = [replace(t, target=target) for t in scratch(range(8), steps=40)]
    together, alone = (Lab(tmp_path / str(n), workers=1, pack=n).run(trials)["accuracy"] for n in (4, 1))
    assert alone.mean() > 1.5 / 5
    found = effect(together - alone)
    assert found.low <= 0 <= found.high
    assert abs(found.mean) < 0.01


def test_sizes_rates_and_regularisers_may_differ():
    trial = fine_tune()
    assert {fine_tune(3).shape, fine_tune(lr=0.1).shape, fine_tune(weight_decay=0.1).shape} == {trial.shape}
    few = replace(trial.target, subset=replace(trial.target.subset, per_class=3))
    assert replace(trial, target=few).shape == trial.shape
    others = [fine_tune(steps=5), fine_tune(batch=8), replace(trial, method=replace(trial.method, freeze="conv2"))]
    others.append(replace(trial, target=replace(trial.target, subset=Subset(classes=6))))
    assert len({t.shape for t in (trial, *others)}) == 5


def test_a_pack_that_does_not_fit_is_halved(tmp_path, sizes, monkeypatch):
    tried = []

    def short_of_memory(runs, **more):
        tried.append(len(runs))
        if len(runs) > 2:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")
        return fit_together(runs, **more)

    monkeypatch.setattr(work, "fit_together", short_of_memory)
    table = Lab(tmp_path, workers=1, pack=8).run([fine_tune(s) for s in range(5)])
    assert (table["status"] == "ok").all()
    assert tried == [5, 3, 2, 1, 2] * 2  # the sources, then what starts from them


def test_out_of_memory_alone_is_on_record_and_tried_again(tmp_path, monkeypatch):
    Lab(tmp_path, workers=1).run([source_task()])
    with monkeypatch.context() as short:

        def never(runs, **more):
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")

        short.setattr(work, "fit_together", never)
        table = Lab(tmp_path, workers=1).run([fine_tune(), source_task()])
    assert list(table["status"]) == ["failed: OutOfMemoryError: tried to allocate 20 GiB", "ok"]
    assert list(Lab(tmp_path, workers=1).run([fine_tune()])["status"]) == ["ok"]


def test_a_failed_source_is_told_and_tried_again(tmp_path, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(Context, "pretraining", lambda *a: 1 / 0)
        table = Lab(tmp_path, workers=1).run([fine_tune()])
    assert list(table["status"]) == ["failed: source: ZeroDivisionError: division by zero"]
    assert list(Lab(tmp_path, workers=1).run([fine_tune()])["status"]) == ["ok"]


def test_a_trial_that_asks_too_much_stops_no_other(tmp_path):
    greedy = replace(SOURCE, subset=replace(SOURCE.subset, per_class=10_000))
    trials = [replace(fine_tune(), source=greedy), fine_tune(), fine_tune(1)]
    with pytest.raises(
        UserError, match=r"^per_class \(=10000\): the smallest class has only \d+ images \(and 1 more\)$"
    ):
        Lab(tmp_path, workers=1).run(trials)
    assert [Store(tmp_path).get(t.key)["status"][:7] for t in trials] == ["refused", "ok", "ok"]


def test_the_best_size_is_found_once(tmp_path, sizes, monkeypatch):
    looked = []

    def two(runs):
        looked.append(len(runs))
        return 2

    monkeypatch.setattr(packs, "pack_size", two)
    monkeypatch.setattr("transferlab.lab.PACK_ON", ("cpu",))
    Lab(tmp_path, workers=1).run([fine_tune(s) for s in range(5)])
    assert sizes == [2, 2, 1, 2, 2, 1]
    assert looked == [5, 5]
    Lab(tmp_path, workers=1).run([fine_tune(s, lr=0.01) for s in range(5)])
    assert looked == [5, 5]
    assert list(json.loads((tmp_path / "packs.json").read_text()).values()) == [[2, 5]] * 2


def scratch(seeds, **recipe) -> list[Trial]:
    return [Trial(TARGET, Scratch(replace(QUICK, **recipe)), BACKBONE, s) for s in seeds]


def test_what_does_not_fit_beside_others_is_prepared_when_these_are_gone(tmp_path, sizes, monkeypatch):
    start, held = work.start, []

    def short_of_memory(*a):
        if sum(net() is not None for net in held) == 2:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")
        ready = start(*a)
        held.append(weakref.ref(ready.net))
        return ready

    monkeypatch.setattr(work, "start", short_of_memory)
    table = Lab(tmp_path, workers=1, pack=8).run(scratch(range(5)))
    assert (table["status"] == "ok").all()
    assert sizes == [2, 2, 1]


def test_no_more_are_prepared_than_train_together(tmp_path, sizes, monkeypatch):
    start, prepared = work.start, []
    monkeypatch.setattr(work, "start", lambda *a: (prepared.append(len(sizes)), start(*a))[1])
    monkeypatch.setattr(packs, "pack_size", lambda runs: 2)
    monkeypatch.setattr("transferlab.lab.PACK_ON", ("cpu",))
    Lab(tmp_path, workers=1).run(scratch(range(5)))
    assert prepared == [0] * 5
    Lab(tmp_path, workers=1).run(scratch(range(5), lr=0.01))
    assert prepared[5:] == [3, 3, 4, 4, 5]


def test_a_size_that_cannot_be_found_out_or_noted_stops_no_trial(tmp_path, sizes, monkeypatch):
    monkeypatch.setattr("transferlab.lab.PACK_ON", ("cpu",))
    with monkeypatch.context() as broken:
        broken.setattr(packs, "pack_size", lambda runs: 1 / 0)
        table = Lab(tmp_path, workers=1).run(scratch(range(3)))
    monkeypatch.setattr(packs, "pack_size", lambda runs: 2)
    (tmp_path / "packs.json").mkdir()
    assert [*table["status"], *Lab(tmp_path, workers=1).run(scratch(range(3), lr=0.01))["status"]] == ["ok"] * 6
    assert sizes == [3, 2, 1]


def test_an_interrupted_pack_is_found_in_any_order(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(
        work, "fit_together", lambda runs, checkpoint: (names.append(checkpoint.path.name), fit_together(runs))[1]
    )
    trials = [scratch([0], lr=lr)[0] for lr in (0.01, 0.02, 0.03)]
    for order in (trials, trials[::-1]):
        Lab(tmp_path / str(len(names)), workers=1, pack=3).run(order)
    assert len(names) == 2
    assert len(set(names)) == 1


def test_seconds_are_those_of_preparing_too(tmp_path, monkeypatch):
    start = work.start
    monkeypatch.setattr(work, "start", lambda *a: (time.sleep(0.3), start(*a))[1])
    table = Lab(tmp_path, workers=1, pack=2).run(scratch(range(2)))
    assert (table["seconds"] > 0.3).all()


@pytest.mark.parametrize(("ours", "seen"), [("", "010"), ("3, 5", "353"), ("GPU-a,GPU-b", ["GPU-a", "GPU-b", "GPU-a"])])
def test_each_process_sees_one_of_the_gpus_that_are_ours(monkeypatch, ours, seen):
    monkeypatch.setattr(devices.signal, "signal", lambda *a: None)
    monkeypatch.setattr(devices, "end_with_parent", lambda: None)
    count = multiprocessing.get_context("spawn").Value("i", 0)
    for wanted in seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
        devices.begin(count, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == wanted


def test_a_cpu_trains_one_after_another(tmp_path, sizes):
    Lab(tmp_path, workers=1).run([fine_tune(s) for s in range(2)])
    assert sizes == [1] * 4


def test_a_search_that_failed_chooses_nothing(tmp_path, monkeypatch):
    """One rate of three runs out of memory: no other takes its place, and the next call asks again."""
    asked = replace(
        fine_tune(), method=replace(fine_tune().method, recipe=replace(QUICK, lr=OneOf(0.02, 0.05, 0.1, seeds=(0, 1))))
    )
    with monkeypatch.context() as short:

        def not_this(runs, **more):
            if runs[0].recipe.lr == 0.1:
                raise torch.OutOfMemoryError("tried to allocate 20 GiB")
            return fit_together(runs, **more)

        short.setattr(work, "fit_together", not_this)
        table = Lab(tmp_path, workers=1).run([asked, fine_tune(lr=0.02)])
    assert list(table["status"]) == ["failed: OutOfMemoryError: tried to allocate 20 GiB (in the search)", "ok"]
    again = Lab(tmp_path, workers=1).run([asked])
    assert list(again["status"]) == ["ok"]
