"""The queue and the loop that gets its jobs done, with executors that train nothing."""

import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace

import pytest

from transferlab import scales
from transferlab.errors import UserError
from transferlab.measure import Forgetting, UnitTrace
from transferlab.methods import FineTune, Probe, SourceTask
from transferlab.run import executors
from transferlab.run.executors import BUSY, Here, run_jobs
from transferlab.run.progress import Progress, duration
from transferlab.run.queue import Job, Queue
from transferlab.specs import Artefact, Pretrained, Trained, Trial

S = scales.scale("smoke")


def trial(seed: int, tune: bool = False) -> Trial:
    source = Trial.of_source(S.source_of(), SourceTask(), S.backbone, seed)
    return replace(source, method=FineTune(S.train)) if tune else source


def scratch(seed: int) -> Trial:
    return Trial(S.target("synthetic:0"), S.scratch, S.backbone, seed)


def both(seed: int) -> list[Trial]:
    return [trial(seed), trial(seed, tune=True)]


def job(made: Artefact) -> Job:
    return Job(made.training, (made,))


def queue_of(trials, lacks=lambda made: True, later=()) -> Queue:
    """A queue of trials of which nothing but the accuracy is asked."""
    return Queue([(t, t.asked) for t in trials], lacks, later)


def started(queue: Queue, executor, statuses=lambda job, asked: "ok", slots: int = 1) -> tuple[list, list[tuple]]:
    """Run a queue's jobs, and return what was started and what was reported as done, in order."""
    asked, done = [], []

    def work(jobs: list[Job]) -> list[str]:
        asked.extend(job.training for job in jobs)
        return [statuses(job, asked.count(job.training)) for job in jobs]

    run_jobs(
        queue,
        executor,
        lambda: slots,
        1,
        lambda jobs: (work, jobs),
        lambda job, status: done.append((job, status)),
    )
    return asked, done


def test_a_source_goes_first_and_then_at_once_what_waited_for_it():
    asked, _ = started(queue_of([*both(0), *both(1)]), Here())
    assert asked == [trial(0).start, *both(0), trial(1).start, *both(1)]


def test_what_lacks_no_network_waits_for_nothing():
    queue = queue_of([*both(0), *both(1)], lambda made: made.seed == 1)
    assert started(queue, Here())[0] == [*both(0), trial(1).start, *both(1)]
    assert not queue


def test_what_others_do_is_asked_for_again(monkeypatch):
    """Trials wait for a source that another process makes; what is free goes on meanwhile."""
    monkeypatch.setattr(executors, "POLL", 0.01)
    first, second = trial(0).start, trial(1).start
    busy = lambda job, asked: BUSY if job.training == first and asked < 3 else "ok"  # noqa: E731
    asked, done = started(queue_of([*both(0), *both(1)]), Here(), busy)
    assert asked[:4] == [first, second, *both(1)]
    assert asked.count(first) == 3
    assert [job.training for job, _ in done] == [second, *both(1), first, *both(0)]
    assert {status for _, status in done} == {"ok"}


def test_a_failure_is_a_status_and_the_rest_goes_on():
    fails = lambda job, asked: "failed: MemoryError: 1 TB" if job.trial.seed == 0 else "ok"  # noqa: E731
    _, done = started(queue_of(map(trial, range(3)), lambda made: False), Here(), fails)
    assert [status for _, status in done] == ["failed: MemoryError: 1 TB", "ok", "ok"]


def test_sources_that_train_together_keep_the_order_of_seeds():
    queue = queue_of([*both(0), *both(1)])
    sources = queue.take(8)
    assert [j.training.seed for j in sources] == [0, 1]
    queue.finish(sources)
    assert [j.trial for j in queue.ready] == [*both(0), *both(1)]


@pytest.mark.parametrize(
    ("ready", "limit", "slots", "packs"), [(8, 64, 4, [2, 2, 2, 2]), (9, 64, 4, [3, 2, 2, 2]), (9, 2, 2, [2, 2])]
)
def test_jobs_are_shared_out_over_free_slots(ready, limit, slots, packs):
    queue = queue_of(map(scratch, range(ready)))
    assert [len(queue.take(limit, slots - i)) for i in range(slots)] == packs


class Dying(Here):
    """Loses its processes with the third job."""

    def __init__(self, error: BaseException) -> None:
        self.jobs, self.error = 0, error

    def submit(self, function, /, *arguments, **named) -> Future:
        self.jobs += 1
        if self.jobs < 3:
            return super().submit(function, *arguments, **named)
        future: Future = Future()
        future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (BrokenProcessPool("gone"), BrokenProcessPool, "gone"),
        (UserError("file (=x): cannot be written"), UserError, r"file \(=x\): cannot be written"),
        (KeyError("a bug"), KeyError, "a bug"),
    ],
)
def test_an_executor_that_fails_stops_the_loop(error, raised, message):
    with pytest.raises(raised, match=message):
        started(queue_of(map(trial, range(5)), lambda made: False), Dying(error), slots=2)


class KilledWorker(Exception):
    """As Dask's is called."""


class Deadly(Here):
    """Its processes are all killed by some jobs, with what runs beside; or, on a cluster, only the one at work."""

    made = 0

    def __init__(self, *culprits: Trial, cluster: bool = False) -> None:
        Deadly.made += 1
        self.culprits, self.cluster, self.running, self.broken = culprits, cluster, [], False

    def submit(self, function, jobs, /, *more) -> Future:
        if self.broken:
            raise BrokenProcessPool
        if not any(job.trial in self.culprits for job in jobs):
            return super().submit(function, jobs, *more)
        future: Future = Future()
        future.set_exception(KilledWorker() if self.cluster else BrokenProcessPool())
        self.broken = not self.cluster
        return future


def outcome(queue: Queue, slots: int, limit: int, *culprits: Trial, cluster: bool = False) -> dict[int, str]:
    """Run a queue, with new processes when they were killed, and return what came of each seed."""
    Deadly.made, done = 0, {}
    work = lambda jobs: ["ok"] * len(jobs)  # noqa: E731
    while queue:
        with suppress(BrokenProcessPool):
            pool = Deadly(*culprits, cluster=cluster)
            noted = lambda job, status: done.update({job.trial.seed: status})  # noqa: E731
            run_jobs(queue, pool, lambda: slots, limit, lambda jobs: (work, jobs), noted)
    return done


@pytest.mark.parametrize("limit", [1, 4])
def test_a_job_that_kills_its_worker_is_given_up_and_the_rest_goes_on(limit):
    found = outcome(queue_of(map(scratch, range(6))), 2, limit, scratch(1))
    assert found == {s: executors.KILLED if s == 1 else "ok" for s in range(6)}
    assert Deadly.made == 1 + executors.KILLS


def test_a_job_that_kills_the_workers_of_a_cluster_is_given_up():
    found = outcome(queue_of(map(scratch, range(6))), 2, 4, scratch(1), cluster=True)
    assert found == {s: executors.KILLED if s == 1 else "ok" for s in range(6)}
    assert Deadly.made == 1


def test_when_all_are_killed_the_study_stops():
    rule = r"workers \(=2\): one after another was killed, for lack of memory perhaps; the same command goes on"
    with pytest.raises(UserError, match=rule):
        outcome(queue_of(map(scratch, range(40))), 2, 1, *map(scratch, range(40)))
    assert Deadly.made == 6


def fine_tune(source, seed: int = 0) -> Trial:
    """A trial that starts from another one, or from a source."""
    return Trial(S.target("synthetic:0"), FineTune(S.train), S.backbone, seed, source)


def test_a_chain_is_made_from_its_first_step_on():
    first = fine_tune(S.source_of())
    last = fine_tune(fine_tune(first))
    queue = queue_of([replace(last, method=Probe()), last, first])
    asked, _ = started(queue, Here())
    assert asked[:3] == [first.start, first, last.source]
    assert {type(made).kind for made in asked[3:-1]} == {"features", "trial"}
    assert len(asked) == 3 + 3 + 2  # of three splits
    wanted = {job.key: job.wanted for job in queue.jobs.values()}
    assert wanted[first.key] == (Trained(first), first)
    assert wanted[last.source.key] == (Trained(last.source),)
    assert wanted[last.key] == (last,)


def test_sources_that_differ_in_where_they_stop_are_one_job():
    stops = [replace(S.source_of(), stop=share) for share in (None, 0.5, 0.25)]
    queue = queue_of(fine_tune(source) for source in stops)
    (source, *others) = queue.jobs.values()
    assert source.training == Pretrained(stops[0], S.backbone, 0)
    assert [made.source for made in source.wanted] == stops
    assert len(others) == 3


def test_measures_of_one_trial_are_one_job():
    trial = fine_tune(S.source_of())
    trials = [replace(trial, measures=(measure,)) for measure in (Forgetting(), UnitTrace())]
    (_, job) = queue_of([*trials, trial]).jobs.values()
    assert job.trial.measures == (Forgetting(), UnitTrace())
    assert set(job.columns) == {"accuracy", *Forgetting.columns, *UnitTrace.columns}


def test_what_is_needed_later_is_kept_of_what_is_done_anyway():
    first = fine_tune(S.source_of())
    later = [Trained(first), Trained(fine_tune(first)), replace(first, source=replace(S.source_of(), stop=0.5)).start]
    source, trained = queue_of([first], later=later).jobs.values()
    assert source.wanted == (first.start, later[2])
    assert trained.wanted == (first, later[0])


def test_no_jobs():
    assert started(queue_of([]), Here()) == ([], [])


def test_executing_here_passes_results_and_errors_on():
    assert Here().submit(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        Here().submit(divmod, 7, 0).result()


# ---------------------------------------------------------------------------------------------------------- progress


def test_progress_counts_and_says_what_is_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(sources=1, runs=2, seconds=100.0, workers=2, quiet=False)
    assert progress.bar.desc.startswith("sources 0/1, runs 0/2, 50 s left")
    now[0] = 60.0
    progress.done(job(trial(0).start), 80.0)
    assert progress.bar.desc.startswith("sources 1/1, runs 0/2, 15 s left")
    progress.done(job(trial(0)), 10.0)
    progress.done(job(trial(1)), 30.0)  # more than was estimated in all
    assert progress.bar.desc.startswith("sources 1/1, runs 2/2, 0 s left")
    progress.bar.close()
    assert "runs 2/2" in capsys.readouterr().err


@pytest.mark.parametrize("quiet", [True, None])
def test_progress_is_quiet_when_asked_and_when_nobody_looks(capsys, monkeypatch, quiet):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    progress = Progress(1, 1, 0.0, 1, quiet)
    progress.done(job(trial(0)), 5.0)
    progress.bar.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0, "0 s"), (12.4, "12 s"), (89, "89 s"), (90, "2 min"), (600, "10 min"), (5399, "90 min")],
        *[(5400, "1.5 h"), (86400, "24.0 h")],
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


# ------------------------------------------------------------------------------------------------ cores that are ours
