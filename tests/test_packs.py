"""Trials that train together: the same results, fewer at once when memory is short, failures on record."""

import json
import multiprocessing
import os
import time
import weakref
from dataclasses import replace

import pytest
import torch
from test_lab import QUICK, SOURCE, S, fine_tune, some_trials

from transferlab import worker
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.report.stats import effect
from transferlab.specs import Scratch, Subset, Trial
from transferlab.store import Store
from transferlab.train.fit import fit_together


@pytest.fixture
def packs(monkeypatch):
    """How many networks each call of the loop trained."""
    sizes = []

    def counted(trainees, **more):
        sizes.append(len(trainees))
        return fit_together(trainees, **more)

    monkeypatch.setattr(worker, "fit_together", counted)
    return sizes


def test_trials_of_one_shape_train_together(tmp_path, packs):
    trials = [*some_trials(range(3)), *(Trial(S.target("synthetic:0"), Scratch(QUICK), S.backbone, s) for s in range(3))]
    together = Lab(tmp_path / "together", workers=1, pack=8).run(trials)
    assert sorted(packs) == [3, 3, 3]  # sources, fine-tuning, scratch
    alone = Lab(tmp_path / "alone", workers=1).run(trials)
    assert (together["status"] == "ok").all()
    assert together["key"].equals(alone["key"])
    assert (together["accuracy"] - alone["accuracy"]).abs().max() <= 0.02
    losses = [t["train_loss"].dropna() for t in (together, alone)]
    assert (losses[0] - losses[1]).abs().max() < 0.01  # sources are kept in half precision
    about = Store(tmp_path / "together").get(fine_tune(0).key)["provenance"]
    assert about["together"] == 3
    assert "together" not in Store(tmp_path / "alone").get(fine_tune(0).key)["provenance"]


def test_final_accuracies_differ_by_nothing(tmp_path):
    """Longer than rounding stays small: over eight seeds the paired difference has an interval that contains 0."""
    recipe = replace(QUICK, steps=40, batch=16)
    trials = [Trial(S.target("synthetic:0"), Scratch(recipe), S.backbone, s) for s in range(8)]
    together, alone = (Lab(tmp_path / str(n), workers=1, pack=n).run(trials)["accuracy"] for n in (4, 1))
    assert alone.mean() > 1.5 / 20
    found = effect(together - alone)
    assert found.low <= 0 <= found.high
    assert abs(found.mean) < 0.01


def test_sizes_rates_and_regularisers_may_differ():
    trial = fine_tune()
    assert {fine_tune(3).shape, fine_tune(lr=0.1).shape, fine_tune(weight_decay=0.1).shape} == {trial.shape}
    few = replace(trial.target, subset=replace(trial.target.subset, per_class=3))
    assert replace(trial, target=few).shape == trial.shape
    others = [fine_tune(steps=5), fine_tune(batch=8), replace(trial, method=replace(trial.method, freeze="conv2"))]
    others.append(replace(trial, target=replace(trial.target, subset=Subset(classes=5))))
    assert len({t.shape for t in (trial, *others)}) == 5


def test_a_pack_that_does_not_fit_is_halved(tmp_path, packs, monkeypatch):
    tried = []

    def short_of_memory(trainees, **more):
        tried.append(len(trainees))
        if len(trainees) > 2:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")
        return fit_together(trainees, **more)

    monkeypatch.setattr(worker, "fit_together", short_of_memory)
    table = Lab(tmp_path, workers=1, pack=8).run([fine_tune(s) for s in range(5)])
    assert (table["status"] == "ok").all()
    assert tried == [5, 3, 2, 1, 2] * 2  # the sources, then what starts from them


def test_out_of_memory_alone_is_on_record_and_tried_again(tmp_path, monkeypatch):
    Lab(tmp_path, workers=1).run([Trial.of_source(SOURCE, S.backbone, 0)])
    with monkeypatch.context() as short:

        def never(trainees, **more):
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")

        short.setattr(worker, "fit_together", never)
        table = Lab(tmp_path, workers=1).run([fine_tune(), Trial.of_source(SOURCE, S.backbone, 0)])
    assert list(table["status"]) == ["failed: OutOfMemoryError: tried to allocate 20 GiB", "ok"]
    assert list(Lab(tmp_path, workers=1).run([fine_tune()])["status"]) == ["ok"]


def test_a_failed_source_is_told_and_tried_again(tmp_path, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(worker, "prepare_source", lambda *a: 1 / 0)
        table = Lab(tmp_path, workers=1).run([fine_tune()])
    assert list(table["status"]) == ["failed: source: ZeroDivisionError: division by zero"]
    assert list(Lab(tmp_path, workers=1).run([fine_tune()])["status"]) == ["ok"]


def test_a_trial_that_asks_too_much_stops_no_other(tmp_path):
    greedy = replace(SOURCE, subset=replace(SOURCE.subset, per_class=10_000))
    trials = [replace(fine_tune(), source=greedy), fine_tune(), fine_tune(1)]
    with pytest.raises(UserError, match=r"^per_class \(=10000\): the smallest class has only \d+ images \(and 1 more\)$"):
        Lab(tmp_path, workers=1).run(trials)
    assert [Store(tmp_path).get(t.key)["status"][:7] for t in trials] == ["refused", "ok", "ok"]


def test_the_best_size_is_found_once(tmp_path, packs, monkeypatch):
    looked = []

    def two(trainees):
        looked.append(len(trainees))
        return 2

    monkeypatch.setattr(worker, "pack_size", two)
    monkeypatch.setattr("transferlab.lab.PACK_ON", ("cpu",))
    Lab(tmp_path, workers=1).run([fine_tune(s) for s in range(5)])
    assert packs == [2, 2, 1, 2, 2, 1]
    assert looked == [5, 5]
    Lab(tmp_path, workers=1).run([fine_tune(s, lr=0.01) for s in range(5)])
    assert looked == [5, 5]
    assert list(json.loads((tmp_path / "packs.json").read_text()).values()) == [[2, 5]] * 2


def scratch(seeds, **recipe) -> list[Trial]:
    return [Trial(S.target("synthetic:0"), Scratch(replace(QUICK, **recipe)), S.backbone, s) for s in seeds]


def test_what_does_not_fit_beside_others_is_prepared_when_these_are_gone(tmp_path, packs, monkeypatch):
    start, held = worker.start, []

    def short_of_memory(*a):
        if sum(net() is not None for net in held) == 2:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")
        ready = start(*a)
        held.append(weakref.ref(ready.net))
        return ready

    monkeypatch.setattr(worker, "start", short_of_memory)
    table = Lab(tmp_path, workers=1, pack=8).run(scratch(range(5)))
    assert (table["status"] == "ok").all()
    assert packs == [2, 2, 1]


def test_no_more_are_prepared_than_train_together(tmp_path, packs, monkeypatch):
    start, prepared = worker.start, []
    monkeypatch.setattr(worker, "start", lambda *a: (prepared.append(len(packs)), start(*a))[1])
    monkeypatch.setattr(worker, "pack_size", lambda trainees: 2)
    monkeypatch.setattr("transferlab.lab.PACK_ON", ("cpu",))
    Lab(tmp_path, workers=1).run(scratch(range(5)))
    assert prepared == [0] * 5
    Lab(tmp_path, workers=1).run(scratch(range(5), lr=0.01))
    assert prepared[5:] == [3, 3, 4, 4, 5]


def test_a_size_that_cannot_be_found_out_or_noted_stops_no_trial(tmp_path, packs, monkeypatch):
    monkeypatch.setattr("transferlab.lab.PACK_ON", ("cpu",))
    with monkeypatch.context() as broken:
        broken.setattr(worker, "pack_size", lambda trainees: 1 / 0)
        table = Lab(tmp_path, workers=1).run(scratch(range(3)))
    monkeypatch.setattr(worker, "pack_size", lambda trainees: 2)
    (tmp_path / "packs.json").mkdir()
    assert [*table["status"], *Lab(tmp_path, workers=1).run(scratch(range(3), lr=0.01))["status"]] == ["ok"] * 6
    assert packs == [3, 2, 1]


def test_an_interrupted_pack_is_found_in_any_order(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(worker, "fit_together", lambda t, checkpoint: (names.append(checkpoint.path.name), fit_together(t))[1])
    trials = [scratch([0], lr=lr)[0] for lr in (0.01, 0.02, 0.03)]
    for order in (trials, trials[::-1]):
        Lab(tmp_path / str(len(names)), workers=1, pack=3).run(order)
    assert len(names) == 2
    assert len(set(names)) == 1


def test_seconds_are_those_of_preparing_too(tmp_path, monkeypatch):
    start = worker.start
    monkeypatch.setattr(worker, "start", lambda *a: (time.sleep(1), start(*a))[1])
    table = Lab(tmp_path, workers=1, pack=2).run(scratch(range(2)))
    assert (table["seconds"] > 1).all()


@pytest.mark.parametrize(("ours", "seen"), [("", "010"), ("3, 5", "353"), ("GPU-a,GPU-b", ["GPU-a", "GPU-b", "GPU-a"])])
def test_each_process_sees_one_of_the_gpus_that_are_ours(monkeypatch, ours, seen):
    monkeypatch.setattr(worker.signal, "signal", lambda *a: None)
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    count = multiprocessing.get_context("spawn").Value("i", 0)
    for wanted in seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
        worker.begin(count, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == wanted


def test_a_cpu_trains_one_after_another(tmp_path, packs):
    Lab(tmp_path, workers=1).run([fine_tune(s) for s in range(2)])
    assert packs == [1] * 4


def test_a_search_that_failed_chooses_nothing(tmp_path, monkeypatch):
    """One rate of three runs out of memory: no other takes its place, and the next call asks again."""
    asked = replace(fine_tune(), method=replace(fine_tune().method, recipe=replace(QUICK, lr=(0.02, 0.05, 0.1))))
    with monkeypatch.context() as short:

        def not_this(trainees, **more):
            if trainees[0].recipe.lr == 0.1:
                raise torch.OutOfMemoryError("tried to allocate 20 GiB")
            return fit_together(trainees, **more)

        short.setattr(worker, "fit_together", not_this)
        table = Lab(tmp_path, workers=1).run([asked, fine_tune(lr=0.02)])
    assert list(table["status"]) == ["failed: OutOfMemoryError: tried to allocate 20 GiB (in the search)", "ok"]
    again = Lab(tmp_path, workers=1).run([asked])
    assert list(again["status"]) == ["ok"]
