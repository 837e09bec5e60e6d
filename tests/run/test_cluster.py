"""Trials on a Dask cluster: the same records, whatever happens to its workers, and one line when it is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster
from interruptions import read_records
from test_lab import some_trials

from transferlab.cli import main
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.run import executors

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("one_world")]  # warnings are Dask's own


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


def test_nobody_answers(monkeypatch, capsys):
    monkeypatch.setattr(executors, "CONNECT", 0.5)
    monkeypatch.setattr(
        sys, "argv", ["transferlab", "run", "images_per_class", "--scale", "smoke", "--cluster", "tcp://127.0.0.1:9"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(
        "transferlab: cluster (=tcp://127.0.0.1:9): the scheduler does not answer"
    )


class Fake:
    """A client that says what workers there are and what it was asked for."""

    def __init__(self, *resources: dict) -> None:
        self.workers = {str(i): {"resources": r} for i, r in enumerate(resources)}
        self.scheduler = SimpleNamespace(address="tcp://x")

    def scheduler_info(self, n_workers: int) -> dict:
        assert n_workers == -1
        return {"workers": self.workers}

    def get_executor(self, **given) -> dict:
        return given


def test_a_gpu_has_one_pack_at_a_time():
    client = Fake({"GPU": 2.0}, {"GPU": 1.0}, {})
    assert executors.cluster_slots(client) == 3
    assert executors.cluster_executor(client) == {"pure": False, "retries": 2, "resources": {"GPU": 1}}
    assert executors.cluster_executor(Fake({}, {})) == {"pure": False, "retries": 2}
    assert executors.cluster_slots(Fake({}, {})) == 2
    with pytest.raises(UserError, match=r"cluster \(=tcp://x\): has no workers"):
        executors.cluster_slots(Fake())


@pytest.mark.parametrize("scheduler", [SimpleNamespace(address="tcp://x"), None])  # looked for, then given up
@pytest.mark.parametrize("ask", [executors.cluster_slots, executors.cluster_executor])
def test_a_scheduler_that_went_between_two_rounds_is_told(ask, scheduler):
    client = Fake()
    client.scheduler, client.status = scheduler, "closed"
    client.scheduler_info = lambda n_workers: {}  # what Dask says then
    rule = "the scheduler is gone; what is on record stays, and the same command goes on"
    with pytest.raises(UserError, match=rf"cluster \(=(tcp://x|closed)\): {rule}"):
        ask(client)
