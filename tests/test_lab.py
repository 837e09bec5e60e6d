"""The door: what is on record is not run again, what changed is, and nothing depends on the number of workers."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial

import pytest
from interruptions import BACKBONE, TARGET, weights
from interruptions import SOURCE as SLOW_SOURCE

from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods import FineTune, Probe, Scratch, SourceTask
from transferlab.run import work
from transferlab.run.executors import Here
from transferlab.run.progress import duration
from transferlab.specs import OneOf, Recipe, ResNet, Subset, Trial
from transferlab.store import Store

pytestmark = pytest.mark.usefixtures("one_world")

QUICK = Recipe(steps=4, batch=16, lr=0.05)
SOURCE = replace(SLOW_SOURCE, recipe=QUICK)
SPLITS = 3  # of the target, each of which has features


def fine_tune(seed: int = 0, **recipe) -> Trial:
    return Trial(TARGET, FineTune(replace(QUICK, **recipe)), BACKBONE, seed, SOURCE)


def source_task(seed: int = 0, source=SOURCE) -> Trial:
    return Trial.of_source(source, SourceTask(), BACKBONE, seed)


def some_trials(seeds=(0, 1)) -> list[Trial]:
    return [t for s in seeds for t in (source_task(s), fine_tune(s), replace(fine_tune(s), method=Probe()))]


@pytest.fixture
def counted(monkeypatch):
    """What is really trained or read, in order."""
    done = []
    start = work.start
    monkeypatch.setattr(work, "start", lambda job, *a: (done.append(job.training.label), start(job, *a))[1])
    return done


def test_a_source_network_at_hand_needs_its_images_no_more(tmp_path, monkeypatch):
    """On a fresh machine the book's own networks are there, and what they were trained on is not."""
    decoded, really = [], work.decode
    monkeypatch.setattr(work, "decode", lambda parts, *a: (decoded.extend(i.name for i, _ in parts), really(parts, *a)))
    lab = Lab(tmp_path, workers=1)
    lab.run([fine_tune()])
    assert decoded == [TARGET.images.name, SOURCE.images.name]
    decoded.clear()
    lab.run([fine_tune(lr=0.01)])
    assert decoded == [TARGET.images.name]


def test_a_trial_on_record_is_not_run_again_and_a_changed_one_is(tmp_path, counted):
    lab = Lab(tmp_path, workers=1)
    first = lab.run(some_trials())
    assert len(counted) == 6 + 2 + 2 * SPLITS
    assert list(first["status"]) == ["ok"] * 6
    counted.clear()
    again = Lab(tmp_path, workers=1).run(some_trials())
    assert counted == []
    assert again.equals(first)
    Lab(tmp_path, workers=1).run([fine_tune(momentum=0.8)])
    assert counted == [fine_tune().label]  # its source is on disk already


def test_rows_come_in_the_order_asked(tmp_path):
    trials = some_trials()
    table = Lab(tmp_path, workers=1).run(trials[::-1])
    assert list(table["seed"]) == [t.seed for t in trials[::-1]]
    assert list(table["method"]) == [t.method.kind for t in trials[::-1]]


def test_a_search_runs_and_the_best_rate_is_read_on_test(tmp_path, counted):
    asked = fine_tune(5, lr=OneOf(1e-5, 0.05, seeds=(0, 1)))
    plan = Lab(tmp_path).plan([asked])
    assert (len(plan.sources), len(plan.runs), plan.known) == (3, 5, 0)
    table = Lab(tmp_path, workers=1).run([asked])
    searched = [t.label for t in sorted(asked.searches(), key=lambda t: t.seed)]
    assert [label for label in counted if "fine-tune" in label] == [*searched, f"{fine_tune(5, lr=0.05).label}"]
    assert (table.loc[0, "lr"], table.loc[0, "seed"]) == (0.05, 5)
    assert Lab(tmp_path).plan([asked]).runs == []
    assert len(Lab(tmp_path).closure([asked])) == 5


def test_stages_of_a_search_run_one_after_another(tmp_path, counted):
    rates, weights = OneOf(1e-5, 0.05, seeds=(0,)), OneOf(1.0, 3.0, seeds=(0,), later=True)
    asked = replace(fine_tune(5, lr=rates), method=FineTune(replace(fine_tune().recipe, lr=rates), weights))
    row = Lab(tmp_path, workers=1).run([asked]).iloc[0]
    assert row["lr"] == 0.05
    tried = [(t.recipe.lr, t.method.head_lr) for t in Lab(tmp_path).closure([asked])]
    assert tried[:3] == [(1e-5, 1.0), (0.05, 1.0), (0.05, 3.0)]
    assert len([label for label in counted if "fine-tune" in label]) == len(tried) == 4
    assert Lab(tmp_path).missing([asked]) == []


def test_plan_counts_without_running(tmp_path, counted):
    plan = Lab(tmp_path).plan(some_trials())
    assert (len(plan.sources), len(plan.runs), plan.known) == (2, 6, 0)
    assert plan.seconds > 0
    assert plan.text(2).startswith("2 sources to pretrain, 6 runs to make, 0 on record; about ")
    assert counted == []
    assert not list(tmp_path.rglob("*.json"))


def test_a_plan_knows_what_late_layers_and_chains_cost(tmp_path):
    whole = fine_tune(steps=1000, augment="none")
    late = replace(whole, method=replace(whole.method, freeze="fc6"))
    chain = replace(whole, source=replace(whole, target=replace(TARGET, images="synthetic:0.3")))
    moving = replace(late, method=replace(late.method, recipe=replace(whole.recipe, augment="crop-flip")))
    one, less, twice, same = (Lab(tmp_path).plan([trial]).seconds for trial in (whole, late, chain, moving))
    assert less < one / 5
    assert 1.5 * one < twice < 2 * one
    assert same == one


def test_never_names_what_is_missing(tmp_path):
    with pytest.raises(
        UserError, match=r"records \(=6 missing, first: .*source-task.*\): none published and run is never"
    ):
        Lab(tmp_path, run="never").run(some_trials())


def test_never_reads_published_records_only(tmp_path):
    made = Lab(tmp_path, workers=1)
    made.run([fine_tune()])
    with pytest.raises(UserError, match="1 missing"):
        Lab(tmp_path, run="never").run([fine_tune()])
    record = made.record(fine_tune())
    assert Lab(tmp_path, run="never", published={record["key"]: record}).run([fine_tune()])["key"][0] == fine_tune().key


def test_an_attempt_that_failed_here_hides_no_published_record(tmp_path, counted):
    Lab(tmp_path / "there", workers=1).run([fine_tune()])
    record = Lab(tmp_path / "there").record(fine_tune())
    Store(tmp_path / "here").put(fine_tune(), "failed: OutOfMemoryError", {}, 1.0, {})
    counted.clear()
    table = Lab(tmp_path / "here", workers=1, published={record["key"]: record}).run([fine_tune()])
    assert list(table["status"]) == ["ok"]
    assert counted == []


@pytest.mark.parametrize("asked", [fine_tune(), fine_tune(lr=OneOf(0.02, 0.05))])
def test_records_that_workers_wrote_elsewhere_are_missed(tmp_path, asked):
    rule = r"record \(=.*\): is not in .*; the workers of a cluster must see that folder under the same name"
    with pytest.raises(UserError, match=rule):
        Lab(tmp_path).table([asked])


def test_same_bits_whatever_the_number_of_workers_and_if_one_is_killed(tmp_path):
    trials, killed = some_trials(range(4)), []

    def kill() -> None:
        while not list((tmp_path / "two" / "records").rglob("*.json")):
            time.sleep(0.02)
        killed.append(multiprocessing.active_children()[0])
        killed[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    two = Lab(tmp_path / "two", workers=2, quiet=True).run(trials)
    killer.join()
    assert killed[0].exitcode == -signal.SIGKILL
    one = Lab(tmp_path / "one", workers=1, quiet=True).run(trials)
    assert (one["status"] == "ok").all()
    assert one.drop(columns=["seconds", "source_seconds"]).equals(two.drop(columns=["seconds", "source_seconds"]))
    networks = [sorted((tmp_path / who / "networks").iterdir()) for who in ("one", "two")]
    for a, b in zip(*networks, strict=True):
        assert a.name == b.name
        assert weights(a) == weights(b)


class Deadly(Here):
    """Its process is killed by one trial."""

    def submit(self, function, jobs, /, *more) -> Future:
        future: Future = Future()
        future.set_exception(BrokenProcessPool())
        return future if jobs[0].trial == fine_tune(1) else super().submit(function, jobs, *more)


def test_a_trial_that_kills_its_worker_is_on_record_and_tried_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Lab, "_executor", lambda self, workers: Deadly())
        table = Lab(tmp_path, workers=1).run([fine_tune(), fine_tune(1)])
    assert list(table["status"]) == ["ok", "failed: its worker was killed"]
    assert list(Lab(tmp_path, workers=1).run([fine_tune(1)])["status"]) == ["ok"]


def test_seeds_that_are_complete(tmp_path):
    lab = Lab(tmp_path, workers=1)
    lab.run(some_trials(seeds=(0,)))
    lab.run([fine_tune(1)])
    assert lab.seeds(some_trials(seeds=(0, 1))) == [0]


def test_a_diverged_trial_is_a_record_that_says_so(tmp_path):
    table = Lab(tmp_path, workers=1).run([fine_tune(lr=99.0, steps=60), fine_tune()])
    assert table.loc[0, "status"].startswith("diverged: the loss was no longer finite by step")
    assert table.loc[1, "status"] == "ok"
    assert "accuracy" not in Store(tmp_path).get(fine_tune(lr=99.0, steps=60).key)["metrics"]


def test_a_diverged_source_is_told_by_what_needs_it(tmp_path):
    wild = replace(SOURCE, recipe=replace(QUICK, lr=99.0, steps=60))
    table = Lab(tmp_path, workers=1).run([replace(fine_tune(), source=wild), source_task(0, wild)])
    assert all(s.startswith("diverged: source: the loss was no longer finite") for s in table["status"])
    assert Lab(tmp_path).plan([replace(fine_tune(1), source=wild)]).sources != []  # another seed may do better


def test_provenance_says_where_a_record_comes_from(tmp_path):
    Lab(tmp_path, workers=1).run([fine_tune()])
    about = Store(tmp_path).get(fine_tune().key)["provenance"]
    assert {"commit", "torch", "torchvision", "numpy", "pillow", "python", "device", "threads", "day"} <= about.keys()
    assert about["threads"] == 1


def test_a_damaged_network_is_named(tmp_path):
    lab = Lab(tmp_path, workers=1)
    lab.run([fine_tune()])
    (file,) = (tmp_path / "networks").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"network .*: cannot be read .*; delete it and it is made again"):
        lab.run([replace(fine_tune(), method=Probe())])


INTERRUPTED = """
import sys
from test_lab import some_trials
from transferlab.lab import Lab
if __name__ == "__main__":
    Lab(sys.argv[1], workers=int(sys.argv[2]), quiet=True).run(some_trials(range(40)))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_and_going_on(tmp_path, workers):
    """Interrupt a study of 120 trials once a few are on record: these stay, and what goes on gives the same bits."""
    script = tmp_path / "study.py"
    script.write_text(INTERRUPTED)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    listen = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # what a shell starts in the background ignores Ctrl-C
    words = [sys.executable, str(script), str(tmp_path / "store"), str(workers)]
    process = subprocess.Popen(words, env=env, stderr=subprocess.PIPE, preexec_fn=listen)
    records = tmp_path / "store" / "records"
    deadline = time.monotonic() + 120
    while len(list(records.rglob("*.json"))) < 4 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in told
    done = {p.stem: json.loads(p.read_text()) for p in records.rglob("*.json")}
    assert 4 <= len(done) < 120
    wanted = some_trials(range(2))
    table = Lab(tmp_path / "store", workers=1).run(wanted)
    fresh = Lab(tmp_path / "fresh", workers=1).run(wanted)
    assert table["accuracy"].equals(fresh["accuracy"])
    assert {k: json.loads((records / k[:2] / f"{k}.json").read_text()) for k in done} == done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run": "sometimes"}, r"run \(=sometimes\): must be one of missing, never"),
        ({"workers": 0}, r"workers \(=0\): must be above 0"),
        ({"device": "gpu"}, r"device \(=gpu\): must be one of auto, cpu, cuda, mps; did you mean cpu\?"),
        ({"threads": 0}, r"threads \(=0\): must be above 0"),
        ({"pack": 0}, r"pack \(=0\): must be above 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        Lab(**arguments)


def test_a_device_that_is_not_here(tmp_path):
    with pytest.raises(UserError, match=r"device \(=cuda:99\): cannot be used here .*; auto takes what is there"):
        Lab(tmp_path, device="cuda:99").run([fine_tune()])


def test_only_trials(tmp_path):
    with pytest.raises(UserError, match=r"trials \(='fine-tune'\): every one must be a Trial"):
        Lab(tmp_path).run(["fine-tune"])


def test_an_unknown_layer(tmp_path):
    with pytest.raises(UserError, match=r"layer \(=fc9\): must be one of conv1_pre, conv1, .* did you mean fc"):
        Lab(tmp_path, workers=1).run([replace(fine_tune(), method=Probe(tap="fc9"))])


def test_more_images_than_there_are(tmp_path):
    source = replace(SOURCE, subset=Subset(classes=25, per_class=1000))
    with pytest.raises(UserError, match=r"per_class \(=1000\): the smallest class has only 4 images"):
        Lab(tmp_path, workers=1).run([replace(fine_tune(), source=source)])


BROKEN = """
import importlib.abc, sys
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
sys.meta_path.insert(0, Broken())
"""
NO_PAIR = (
    "torch and torchvision (=RuntimeError: operator torchvision::nms does not exist): are not a pair; pip uninstall"
)


def test_torch_and_torchvision_that_are_not_a_pair(tmp_path):
    """What a CPU-only torch beside PyPI's torchvision says at import: our own networks need none of it."""
    asked = Trial(TARGET, Scratch(QUICK), BACKBONE, 0)
    code = f"""{BROKEN}
import transferlab.methods
from transferlab.lab import Lab
from transferlab.specs import Spec
lab = Lab({str(tmp_path)!r}, workers=1)
print(*lab.run([Spec.from_dict({asked.to_dict()!r})])["status"])
lab.run([Spec.from_dict({replace(asked, backbone=ResNet()).to_dict()!r})])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n"
    assert done.stderr.splitlines()[-1].startswith(f"transferlab.errors.RefusedError: {NO_PAIR}")


def test_a_command_says_it_in_one_line():
    code = f"{BROKEN}\nsys.argv = 'transferlab data pin torchvision:Flowers102'.split()\n"
    code += "from transferlab.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"transferlab: {NO_PAIR}")


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (600, "10 min"), (7200, "2.0 h")])
def test_duration(seconds, text):
    assert duration(seconds) == text
