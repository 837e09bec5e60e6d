"""Trials on a Dask cluster: the same records, whatever happens to its workers, and one line when it is gone."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster
from interruptions import read_records
from test_lab import some_trials
from test_queue import scratch

from transferlab.cli import main
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.run import executors
from transferlab.run.queue import Queue

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("one_world")]  # warnings are Dask's own


@pytest.fixture(scope="module", autouse=True)
def few_to_collect():
    """What other tests and imports left is not gone through again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_client_is_left():
    """One that found no scheduler takes Dask's lock when it is collected: not while another begins, who holds it."""
    gc.collect()
    yield
    gc.collect()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, drawn):
    """Two worker processes of one thread each."""
    folder = tmp_path_factory.mktemp("dask")
    quiet = {"dashboard_address": None, "silence_logs": 50, "local_directory": str(folder), "memory_limit": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERLAB_CACHE", str(drawn))
        with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as made:
            yield made


@pytest.fixture
def client(cluster):
    with Client(cluster) as made:
        yield made


def test_records_are_those_of_this_machine(tmp_path, client):
    trials = some_trials()
    there = Lab(tmp_path / "there", client=client).run(trials)
    here = Lab(tmp_path / "here", workers=1).run(trials)
    assert there.drop(columns=["seconds", "source_seconds"]).equals(here.drop(columns=["seconds", "source_seconds"]))
    assert executors.cluster_slots(client) == 2


def test_a_worker_that_dies_has_its_trials_run_elsewhere(tmp_path, client):
    trials = some_trials(range(6))
    killed = []

    def kill() -> None:
        while len(list((tmp_path / "records").rglob("*.json"))) < 3:
            time.sleep(0.02)
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    table = Lab(tmp_path, client=client).run(trials)
    killer.join()
    assert killed
    assert (table["status"] == "ok").all()
    assert read_records(tmp_path).keys() == {t.key for t in trials}


def test_a_scheduler_that_is_gone_is_told_and_the_study_goes_on(tmp_path):
    script = tmp_path / "scheduler.py"
    script.write_text(
        "import asyncio\nfrom distributed import Scheduler, Worker\n"
        "async def main():\n"
        "    async with Scheduler(host='127.0.0.1', port=0, dashboard_address=None) as s:\n"
        "        async with Worker(s.address, nthreads=1):\n"
        "            print(s.address, flush=True)\n"
        "            await s.finished()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, str(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path)
    address = process.stdout.readline().strip()
    trials = some_trials(range(20))
    records = tmp_path / "store" / "records"

    def kill() -> None:
        while len(list(records.rglob("*.json"))) < 3:
            time.sleep(0.02)
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with (
        pytest.raises(
            UserError, match=r"cluster .*: the scheduler is gone; what is on record stays, and the same command goes on"
        ),
        executors.connected(address) as client,
    ):
        Lab(tmp_path / "store", client=client).run(trials)
    killer.join()
    process.communicate()
    done = len(list(records.rglob("*.json")))
    assert 3 <= done < len(trials)
    few = [t for t in trials if t.seed < 2]
    assert (Lab(tmp_path / "store", workers=1).run(few)["status"] == "ok").all()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tls://127.0.0.1:9", "nowhere"])
def test_nobody_answers(monkeypatch, capsys, address):
    monkeypatch.setattr(executors, "CONNECT", 0.5)
    monkeypatch.setattr(
        sys, "argv", ["transferlab", "run", "images_per_class", "--scale", "smoke", "--cluster", address]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"transferlab: cluster (={address}): the scheduler does not answer")


def test_workers_may_come_when_there_is_something_to_do(tmp_path):
    """An adaptive cluster, which starts a worker for what waits for one, and none before."""
    quiet = {"dashboard_address": None, "silence_logs": 50, "local_directory": str(tmp_path), "memory_limit": None}
    with LocalCluster(n_workers=0, threads_per_worker=1, **quiet) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=0, maximum=1)
        table = Lab(tmp_path / "store", client=client).run(some_trials([0])[:2])
    assert (table["status"] == "ok").all()


class Fake:
    """A client that says what workers there are, does what it is asked to do once there are some, and notes it."""

    status = "running"

    def __init__(self, *resources: dict) -> None:
        self.scheduler = SimpleNamespace(address="tcp://x", identity=self.identity)
        self.asked, self.waiting, self.most = [], [], []
        self.has(*resources)

    def has(self, *resources: dict) -> None:
        self.workers = {str(i): {"resources": r} for i, r in enumerate(resources)}

    def identity(self, n_workers: int) -> dict:
        assert n_workers == -1
        return {"workers": self.workers}

    def sync(self, function, **given):
        return function(**given)

    def get_executor(self, **given):
        self.asked.append(given)
        return self

    def submit(self, function, *arguments) -> Future:
        self.waiting.append((future := Future(), function, arguments))
        return future

    def work(self) -> None:
        """Note how much waits, and do it."""
        self.most.append(len(self.waiting))
        for future, function, arguments in self.waiting:
            future.set_result(function(*arguments))
        self.waiting.clear()


def test_a_gpu_has_one_pack_at_a_time():
    client = Fake({"GPU": 2.0}, {"GPU": 1.0}, {})
    assert executors.cluster_slots(client) == 3
    executor = executors.Cluster(client, 1.0)
    executor.submit(print)
    client.has({}, {})  # the others went
    assert executors.cluster_slots(client) == 2
    executor.submit(print)
    assert client.asked == [{"pure": False, "retries": 2, "resources": {"GPU": 1}}, {"pure": False, "retries": 2}]
    assert executors.cluster_slots(Fake()) == 0


def test_workers_are_used_and_missed_as_they_come_and_go(monkeypatch):
    """What waits beyond what the workers do tells an adaptive cluster that it may have more of them."""
    client, counts, done, really = Fake(), iter([0, 1, 3, 2, 0, 2, 0, 0]), [], executors.wait

    def places() -> int:
        client.has(*[{}] * next(counts))
        return executors.cluster_slots(client)

    monkeypatch.setattr(executors, "wait", lambda running, **how: (client.work(), really(running, **how))[1])
    queue = Queue([(t, t.asked) for t in map(scratch, range(20))], lambda made: False)
    work = lambda jobs: ["ok"] * len(jobs)  # noqa: E731
    executor = executors.Cluster(client, 60.0)
    executors.run_jobs(queue, executor, places, 1, lambda pack: (work, pack), lambda job, status: done.append(status))
    assert done == ["ok"] * 20
    assert client.most == [1, 2, 6, 4, 1, 4, 1, 1]


def test_no_workers_for_too_long_is_told(monkeypatch, capsys):
    now, client = [0.0], Fake()
    monkeypatch.setattr(executors, "time", SimpleNamespace(monotonic=lambda: now[0]))
    executor = executors.Cluster(client, 60.0)
    for moment, workers in ((0, 0), (50, 0), (55, 1), (100, 0), (159, 0)):
        now[0] = moment
        client.has(*[{}] * workers)
        assert executor.alive()
    line = "cluster (=tcp://x): has no workers now; waiting for 60 s"
    assert capsys.readouterr().err.splitlines() == [line, line]  # once each time that they went
    client.has({})
    executor.submit(print)  # they were here meanwhile
    client.has()
    now[0] = 300.0
    assert executor.alive()
    now[0] = 361.0
    why = r"start some with: dask worker ADDRESS --nthreads 1; or wait longer, with --wait SECONDS"
    rule = rf"has had no workers for 60 s; {why}; the same command goes on"
    with pytest.raises(UserError, match=rf"^cluster \(=tcp://x\): {rule}$"):
        executor.alive()
    client.status = "closed"
    assert not executor.alive()


@pytest.mark.parametrize("scheduler", [SimpleNamespace(address="tcp://x", identity=lambda **_: {}), None])
@pytest.mark.parametrize("ask", [executors.cluster_slots, lambda client: executors.Cluster(client, 1).submit(print)])
def test_a_scheduler_that_went_between_two_rounds_is_told(ask, scheduler):
    client = Fake()
    client.scheduler, client.status = scheduler, "closed"
    rule = "the scheduler is gone; what is on record stays, and the same command goes on"
    with pytest.raises(UserError, match=rf"cluster \(=(tcp://x|closed)\): {rule}"):
        ask(client)
