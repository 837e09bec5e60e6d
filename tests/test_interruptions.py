"""Nothing is lost: by a kill, a full disk, a folder that is read-only, a damaged file, a second run, a failed trial."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import interruptions
import papermill
import pytest
import torch
from interruptions import (
    BACKBONE,
    RUN,
    SOURCE,
    TARGET,
    TUNED,
    environment,
    make_project,
    measured,
    read_records,
    trials,
)
from small_world import shrink_world

from transferlab import build, cli
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods import FineTune, Probe, Scratch
from transferlab.paths import write_atomically
from transferlab.run import context, work
from transferlab.specs import AlexNet, Subset, Trial
from transferlab.store import Published, Store
from transferlab.train.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("one_world")

ONE_WORKER = [*RUN.split(), "1"]
PAGE = 4096  # bytes, the least that a file takes on a small disk
NO_SPACE = r"cannot be written \(No space left on device\)"


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, drawn) -> dict[str, str]:
    """What the study measures when nothing happens, by key."""
    store = tmp_path_factory.mktemp("wanted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERLAB_CACHE", str(drawn))
        shrink_world(patch)
        Lab(store, workers=1).run(trials((0, 1)))
    return found(store)


def found(store: Path) -> dict[str, str]:
    """What is on record, checked."""
    return {k: measured(json.loads(v)) for k, v in read_records(store).items()}


def recorded(folder: Path) -> int:
    """How many records there are, those of sources and features too."""
    return len(list(folder.glob("store/records/*/*.json")))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The study's own project, and the store in it."""
    return enter(make_project(tmp_path / "project"), monkeypatch)


def enter(folder: Path, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def transferlab(monkeypatch, capsys):
    """Run the command in this process, as if outside of a notebook, and return exit code and errors."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # executing a notebook imports it

    def run(*words: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["transferlab", *(words or ONE_WORKER)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0, capsys.readouterr().err.splitlines()

    return run


def refused(result: tuple[int, list[str]], message: str) -> None:
    """Check that a command ended with one line that matches, below the one that says what it is going to do."""
    code, lines = result
    assert code == 2
    assert len(lines) == 2, lines
    assert lines[0].startswith("study at scale cpu")
    assert re.match(f"transferlab: .*{message}", lines[1])


def goes_on(result: tuple[int, list[str]], folder: Path, wanted: dict[str, str], kept: dict[str, bytes]) -> None:
    """Check that the same command completes the study, that nothing was made again, and that the bits are the same."""
    assert result[0] == 0, result[1]
    assert found(folder / "store") == wanted
    assert kept.items() <= read_records(folder / "store").items()
    assert {k: measured(r) for k, r in Published(folder / "results").read().items()} == wanted


# ------------------------------------------------------------------------------------------------------------- kills


def test_twenty_kills(tmp_path):
    script = [sys.executable, interruptions.__file__, "--kills", "20", "--seed", "1", "--folder", str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = "trial 5, study 4, write 6, pool 1, beside 1, publish 2, papermill 1"
    told = re.fullmatch(
        rf"20 kills \({kinds}; (\d+) left a trial half done\); "
        r"(\d+) studies completed, (\d+) records compared, 0 differing\n",
        done.stdout,
    )
    assert told, done.stdout
    half_done, studies, records = map(int, told.groups())
    assert half_done >= 3
    assert studies >= 3
    assert records == 10 * studies


def test_workers_do_not_outlive_who_started_them(project):
    """Only the command itself is killed, as by its number."""
    command = [sys.executable, "-m", "transferlab", *RUN.split(), "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not list(project.glob("store/records/*/*.json")) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
        until = time.monotonic() + 20
        while (left := session(process.pid)) and time.monotonic() < until:
            time.sleep(0.1)
        assert left == []
    finally:
        if session(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def session(pid: int) -> list[str]:
    """The processes of a session that are not yet dead, resource trackers left out."""
    told = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "-s", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return [line for line in told.splitlines() if line.split()[1][0] != "Z" and "resource_tracker" not in line]


# -------------------------------------------------------------------------------------------------------- two at once

LOGGED = """
import os, sys, time
from pathlib import Path

import transferlab.run.work
from transferlab.cli import main

log, other, replace = Path(sys.argv.pop(1)), Path(sys.argv.pop(1)), os.replace


def replaced(source, target, **more):
    replace(source, target, **more)
    with open(log, "a") as file:
        print(target, file=file)


os.replace = replaced
log.touch()
while not other.exists():
    time.sleep(0.01)
main()
"""


def test_two_runs_at_once_run_every_trial_once(project, tmp_path, wanted):
    (tmp_path / "logged.py").write_text(LOGGED)
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "logged.py"), str(log), str(other), *ONE_WORKER],
            stderr=subprocess.PIPE,
            text=True,
        )
        for log, other in (logs, logs[::-1])
    ]
    told = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], told
    paths = [Path(line) for log in logs for line in log.read_text().splitlines()]
    made = Counter(path for path in paths if project in path.parents)  # the cache of images is elsewhere
    results = project / "results" / "cpu" / "study.jsonl"
    assert made.pop(results) == 2
    assert set(made.values()) == {1}
    files = {name: {p.stem for p in made if p.parent.name == name} for name in ("networks", "features")}
    assert [len(keys) for keys in files.values()] == [2, 2 * 3]
    on_record = {p.stem for p in made if p.parent.parent.name == "records"}
    assert on_record == wanted.keys() | files["networks"] | files["features"]
    assert found(project / "store") == wanted
    assert Published(project / "results").read().keys() == wanted.keys()


EXECUTED = """
import sys, time
from pathlib import Path

import papermill

from transferlab.build import execute

mine, other = Path(sys.argv[1]), Path(sys.argv[2])


def execute_notebook(notebook, path, *arguments, **named):
    Path(path).write_text("whole")
    mine.touch()
    while not other.exists():
        time.sleep(0.01)


papermill.execute_notebook = execute_notebook
execute(Path("notebooks/study.md"), Path("page.ipynb"), {})
"""


def test_two_runs_at_once_execute_the_page_each(project, tmp_path):
    """Both have written their notebook and are about to give it its name."""
    (tmp_path / "executed.py").write_text(EXECUTED)
    marks = [str(tmp_path / "a"), str(tmp_path / "b")]
    command = [sys.executable, str(tmp_path / "executed.py")]
    both = [subprocess.Popen([*command, *order], stderr=subprocess.PIPE, text=True) for order in (marks, marks[::-1])]
    told = [p.communicate(timeout=120)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], told
    assert (project / "page.ipynb").read_text() == "whole"


# ---------------------------------------------------------------------------------------------------------- full disk


def mount(*words: str) -> bool:
    """Whether the system mounts something for us: it does for root, outside of many containers."""
    try:
        return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path):
    """A small disk in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)):
        pytest.skip("a disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, pages: int) -> Path:
    """Write a file that leaves so many pages free on a disk, and return it."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(free - pages * PAGE))
    return ballast


@pytest.mark.parametrize("pages", [0, 4, 12, 24], ids=["at once", "after a source", "halfway", "when publishing"])
def test_a_full_disk(disk, monkeypatch, transferlab, wanted, pages):
    folder = enter(make_project(disk / "project"), monkeypatch)
    ballast = fill(disk, pages)
    monkeypatch.setattr(context, "LIMIT", 0)  # all pages are for networks and records
    refused(transferlab(), NO_SPACE)
    kept = read_records(folder / "store")
    assert {k: measured(json.loads(v)) for k, v in kept.items()}.items() <= wanted.items()
    assert recorded(folder) >= pages - 7
    assert not list(folder.rglob(".*.*"))
    ballast.unlink()
    goes_on(transferlab(), folder, wanted, kept)


@pytest.mark.parametrize("files", [0, 4, 8, 30])
def test_a_disk_that_takes_no_more_files(disk, monkeypatch, transferlab, wanted, files):
    folder = enter(make_project(disk / "project"), monkeypatch)
    used = os.statvfs(disk).f_files - os.statvfs(disk).f_ffree
    assert mount("-o", f"remount,nr_inodes={used + files}", str(disk))
    refused(transferlab(), NO_SPACE)
    kept = read_records(folder / "store")
    assert mount("-o", "remount,nr_inodes=1000", str(disk))
    goes_on(transferlab(), folder, wanted, kept)


@contextmanager
def full(*names: str, after: int = 0):
    """A disk that takes so many files below some folders and no more."""
    opened, fsync, left = [""], os.fsync, [after]

    def hear(event, arguments):
        if armed and event == "open" and arguments[2] & os.O_CREAT:
            opened[0] = str(arguments[0])

    def refuse(file):
        if any(f"/{name}/" in opened[0] for name in names):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    armed = True
    sys.addaudithook(hear)  # it cannot be taken away, but told not to listen
    os.fsync = refuse
    try:
        yield
    finally:
        armed, os.fsync = False, fsync


@pytest.mark.parametrize(("folder", "after"), [("networks", 0), ("records", 0), ("records", 11), ("results", 0)])
def test_a_disk_that_is_full_for_some(project, transferlab, wanted, folder, after):
    with full(folder, after=after):
        refused(transferlab(), NO_SPACE)
    kept = read_records(project / "store")
    assert recorded(project) == (10 + 2 + 6 if folder == "results" else after)
    assert not list((project / "store").rglob(".*.*"))
    goes_on(transferlab(), project, wanted, kept)


def half_done(folder: Path, monkeypatch) -> Path:
    """Kill the study in its first source, and return the checkpoint that it left."""
    with monkeypatch.context() as patch:
        asked = iter(range(1, 1000))
        patch.setattr(Checkpoint, "due", lambda self: next(asked) % 7 == 0)
        replaced = os.replace

        def killed(source, target, **more):
            if "networks" in Path(target).parts:
                raise KeyboardInterrupt
            replaced(source, target, **more)

        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Lab(folder / "store", workers=1, quiet=True).run(trials((0, 1)))
    (path,) = (folder / "store" / "checkpoints").glob("*.pt")
    for left in folder.rglob(".*.*"):
        left.unlink()
    return path


def test_a_disk_that_is_too_full_for_checkpoints(project, transferlab, wanted, monkeypatch):
    """What was kept before is not lost, and no trial is on record as failed for that."""
    kept = half_done(project, monkeypatch).read_bytes()
    with monkeypatch.context() as patch, full("checkpoints"):
        patch.setattr(Checkpoint, "due", lambda self: True)
        code, lines = transferlab()
        if code:
            refused((code, lines), NO_SPACE)
            (path,) = (project / "store" / "checkpoints").glob("*.pt")
            assert path.read_bytes() == kept
    assert found(project / "store").items() <= wanted.items()
    goes_on(transferlab(), project, wanted, {})


def test_a_page_for_which_there_is_no_space(project, transferlab, wanted, monkeypatch):
    def no_space(notebook, path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", path)

    words = [w for w in ONE_WORKER if w != "--no-page"]
    with monkeypatch.context() as patch:
        patch.setattr(papermill, "execute_notebook", no_space)
        code, lines = transferlab(*words)
    assert code == 2
    assert re.match("transferlab: .*No space left on device", lines[-1])
    goes_on(transferlab(), project, wanted, read_records(project / "store"))


# ---------------------------------------------------------------------------------------------------------- read-only


def test_results_that_cannot_be_written(project, transferlab, wanted):
    """All is measured, and stays on record; publishing is all that is left."""
    (project / "results").write_text("")
    refused(transferlab(), r"results \(=.*\): cannot be written")
    kept = read_records(project / "store")
    assert kept.keys() == wanted.keys()
    (project / "results").unlink()
    goes_on(transferlab(), project, wanted, kept)


@pytest.mark.parametrize("folder", ["store", "store/records", "store/networks", "store/claims", "results"])
def test_a_folder_without_permission(project, transferlab, wanted, monkeypatch, folder):
    access = os.access
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: access(path, mode) and not Path(path).is_relative_to(project / folder)
        )
        refused(transferlab(), r"(store|results) \(=.*\): cannot be written \(permission denied\); name another folder")
    goes_on(transferlab(), project, wanted, read_records(project / "store"))


def test_a_disk_that_is_read_only(disk, monkeypatch, transferlab, wanted):
    folder = enter(make_project(disk / "project"), monkeypatch)
    assert mount("-o", "remount,ro", str(disk))
    refused(transferlab(), "cannot be written")
    with pytest.raises(UserError, match=r"file .*: cannot be written \(Read-only file system\)"):
        write_atomically(folder / "file", "")  # it was not read-only when work began
    assert mount("-o", "remount,rw", str(disk))
    goes_on(transferlab(), folder, wanted, {})


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file .*: cannot be written \("):
        write_atomically(tmp_path / "file" / "record", "")


# ------------------------------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_checkpoint_truncated_by_somebody(project, wanted, monkeypatch, share, capsys):
    path = half_done(project, monkeypatch)
    os.truncate(path, int(share * path.stat().st_size))
    Lab(project / "store", workers=1, quiet=True).run(trials((0, 1)))
    assert re.fullmatch(r"checkpoint \(=.*\): cannot be used \(\w+\); training starts anew\n", capsys.readouterr().err)
    assert found(project / "store") == wanted
    assert not path.exists()


def test_a_checkpoint_that_is_whole_is_gone_on_with(project, wanted, monkeypatch):
    path = half_done(project, monkeypatch)
    steps = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *a: (steps.append(path.exists()), step(self, *a))[1])
    Lab(project / "store", workers=1).run(trials((0, 1)))
    assert found(project / "store") == wanted
    assert sum(steps) < 7  # of the source that was killed


def test_a_record_truncated_by_somebody_is_named(project, transferlab, wanted):
    transferlab()
    (project / "results" / "cpu" / "study.jsonl").unlink()
    kept = read_records(project / "store")
    path = Store(project / "store").path(next(iter(kept)))
    del kept[path.stem]
    os.truncate(path, 100)
    code, lines = transferlab()
    assert code == 2
    assert path.name in lines[-1]
    path.unlink()
    goes_on(transferlab(), project, wanted, kept)


# ------------------------------------------------------------------------------------------------------ failed trials

FAILING = replace(TUNED, label_smoothing=0.25)
GOOD = Trial(TARGET, FineTune(TUNED), BACKBONE, 0, SOURCE)
PROBE = replace(GOOD, method=Probe())


@pytest.fixture
def failing(monkeypatch):
    """Make training with label smoothing of 0.25 fail, for a while."""

    @contextmanager
    def fails(error: Exception):
        loss = torch.nn.functional.cross_entropy

        def raises(*arguments, label_smoothing=0.0, **named):
            if label_smoothing == 0.25:
                raise error
            return loss(*arguments, label_smoothing=label_smoothing, **named)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "cross_entropy", raises)
            yield

    return fails


ERRORS = [
    (MemoryError("1 TB"), "failed: MemoryError: 1 TB"),
    (
        torch.OutOfMemoryError("CUDA out of memory.\nTried 1 TB"),
        "failed: OutOfMemoryError: CUDA out of memory. Tried 1 TB",
    ),
    (IndexError("Target 7 is out of bounds."), "failed: IndexError: Target 7 is out of bounds."),
]


def test_what_was_measured_is_published_though_a_trial_is_refused(project, transferlab, monkeypatch):
    really = work.start

    def picky(job, *given):
        if job.trial and isinstance(job.trial.method, Probe):
            raise UserError("tap (=fc8): there is none")
        return really(job, *given)

    monkeypatch.setattr(work, "start", picky)
    code, lines = transferlab()
    assert code == 2
    assert "tap (=fc8): there is none" in lines[-1]
    (path,) = (project / "results").glob("*/*.jsonl")
    assert f"published {path}" in lines
    rows = [json.loads(line) for line in path.read_text().splitlines() if '"key"' in line]
    assert {r.get("status", "ok")[:7] for r in rows} == {"ok", "refused"}


@pytest.mark.parametrize(("error", "reason"), ERRORS, ids=lambda e: type(e).__name__)
def test_a_failed_trial_is_a_record_and_the_next_call_tries_again(tmp_path, failing, error, reason):
    bad = replace(GOOD, method=FineTune(FAILING))
    with failing(error):
        table = Lab(tmp_path, workers=1).run([bad, GOOD, PROBE])
    assert table.loc[0, "status"].startswith(reason)
    assert list(table["status"][1:]) == ["ok", "ok"]
    assert Store(tmp_path).get(bad.key)["status"] == table.loc[0, "status"]
    kept = {t.key: Store(tmp_path).path(t.key).stat() for t in (GOOD, PROBE)}
    assert [t.key for t in Lab(tmp_path).plan([bad, GOOD, PROBE]).runs] == [bad.key]
    table = Lab(tmp_path, workers=1).run([bad, GOOD, PROBE])
    assert list(table["status"]) == ["ok"] * 3
    assert {k: Store(tmp_path).path(k).stat() for k in kept} == kept


def test_a_failed_source_is_told_by_all_that_need_it_and_tried_again(tmp_path, failing):
    source = replace(SOURCE, recipe=FAILING)
    study = [replace(t, source=source) for t in (GOOD, PROBE)] + [GOOD]
    with failing(MemoryError("1 TB")):
        table = Lab(tmp_path, workers=1).run(study)
    assert list(table["status"]) == ["failed: source: MemoryError: 1 TB"] * 2 + ["ok"]
    assert list(Lab(tmp_path, workers=1).run(study)["status"]) == ["ok"] * 3


def test_a_network_that_no_memory_can_hold(tmp_path):
    huge = Trial(TARGET, Scratch(TUNED), AlexNet((4, 6, 8, 8, 8), (2**50, 16)), 0)
    table = Lab(tmp_path, workers=1).run([huge, GOOD])
    assert table.loc[0, "status"].startswith("failed: RuntimeError: ")
    assert "memory" in table.loc[0, "status"]
    assert table.loc[1, "status"] == "ok"


def test_a_diverged_trial_is_not_tried_again(tmp_path):
    wild = replace(GOOD, method=FineTune(replace(TUNED, lr=99.0, steps=60)))
    first = Lab(tmp_path, workers=1).run([wild, GOOD])
    assert first.loc[0, "status"].startswith("diverged: ")
    about = Store(tmp_path).path(wild.key).stat()
    assert Lab(tmp_path, workers=1).run([wild, GOOD]).equals(first)
    assert Store(tmp_path).path(wild.key).stat() == about


def test_bad_data_is_named_and_the_others_are_on_record(tmp_path):
    """More images of a class than there are: a mistake of the trial's, told when all the others are done."""
    bad = replace(GOOD, target=replace(TARGET, subset=Subset(classes=5, per_class=1000)))
    with pytest.raises(UserError, match=r"per_class \(=1000\)"):
        Lab(tmp_path, workers=1).run([bad, GOOD, PROBE])
    assert all(Store(tmp_path).get(t.key)["status"] == "ok" for t in (GOOD, PROBE))


def test_the_command_says_how_many_failed_and_why(project, transferlab, failing, monkeypatch, wanted):
    bad = replace(GOOD, method=FineTune(FAILING))
    with monkeypatch.context() as patch, failing(MemoryError("1 TB")):
        patch.setattr(interruptions, "trials", lambda seeds: [*trials(seeds), *[bad] * (0 in seeds)])
        code, lines = transferlab()
    assert code == 0
    (said,) = (line for line in lines if "no result" in line)
    assert said.startswith("1 of 9 trials have no result; the first: ")
    assert said.endswith("failed: MemoryError: 1 TB")
    assert wanted.items() <= found(project / "store").items()


def test_a_notebook_that_cannot_go_on_says_so_in_one_line(project):
    """What stops the study in a notebook reaches the command as the line that it is."""
    (project / "store").write_text("")
    with pytest.raises(UserError, match=r"page \(=study\.md\): cell \d failed \(UserError: store .*cannot be written"):
        build.execute(project / "notebooks" / "study.md", project / "page.ipynb", {})
    assert not (project / "page.ipynb").exists()
