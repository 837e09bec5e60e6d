"""Records: written whole or not at all, published in a form that can be reviewed."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from filelock import BaseFileLock

from transferlab import paths, scales
from transferlab.errors import UserError
from transferlab.specs import Pretrained, Trial, Weights
from transferlab.store import Published, Store, settled

S = scales.scale("smoke")
HERE = {"commit": "abc", "torch": "2.14.1", "device": "a processor", "threads": 1, "day": "2026-01-01"}


def trial(seed: int) -> Trial:
    return Trial(S.target("synthetic:0"), S.scratch, S.backbone, seed)


def put(store: Store, seed: int, **changed) -> dict:
    return store.put(trial(seed), "ok", {"accuracy": 0.25, "n": 400}, 1.234, HERE | changed)


def test_put_and_get(tmp_path):
    store = Store(tmp_path)
    record = put(store, 0)
    assert store.get(trial(0).key) == record
    assert record["trial"] == trial(0).to_dict()
    assert store.get(trial(1).key) is None


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    store = Store(tmp_path)
    put(store, 0)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"file .*: cannot be written \(No space left on device\); free the disk"):
        store.put(trial(0), "ok", {"accuracy": 1.0}, 1.0, HERE)
    assert store.get(trial(0).key)["metrics"]["accuracy"] == 0.25
    assert [p.name for p in store.path(trial(0).key).parent.iterdir()] == [f"{trial(0).key}.json"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"store .*: cannot be written \(Not a directory\); name another folder"):
        Store(tmp_path / "file" / "store").prepare()
    with pytest.raises(UserError, match=r"results .*: cannot be written"):
        Published(tmp_path / "file").write("cpu", "chapter", [])


def test_what_was_half_written_long_ago_is_removed(tmp_path, monkeypatch):
    """Also where its writer, who was not dead after all, renames it at this moment."""
    store = Store(tmp_path)
    halves = [store.root / "networks" / f".a.safetensors.{i}" for i in range(3)]
    store.prepare()
    for half in halves:
        half.write_text("")
    late = SimpleNamespace(time=lambda: (halves[1].unlink(missing_ok=True), time.time() + 90_000)[1])
    monkeypatch.setattr(paths, "time", late)
    store.prepare()
    assert not list(store.networks.iterdir())


HOLDER = """
import errno, fcntl, os, sys, time
if len(sys.argv) > 2:
    def flock(*_): raise OSError(int(sys.argv[2]), "no locks here")
    fcntl.flock = flock
from transferlab.store import Store
with Store(sys.argv[1]).claim("key") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("answer", [None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_claim_is_one_process_s_and_goes_with_it(tmp_path, monkeypatch, answer):
    """It is let go of when its holder ends, is killed, or is done; also where the file system has no locks."""
    store = Store(tmp_path)
    if answer:
        monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(answer, "no locks here")))
    command = [sys.executable, "-c", HOLDER, str(tmp_path), *([str(answer)] if answer else [])]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        for mine, key in ((False, "key"), (True, "another")):
            with store.claim(key) as claimed, Store(tmp_path).claim(key) as twice:
                assert (claimed, twice) == (mine, False)
    finally:
        holder.kill()
        holder.communicate()
    for _ in range(2):
        with store.claim("key") as claimed:
            assert claimed
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_claim_that_cannot_be_written(tmp_path, monkeypatch):
    def full(self, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BaseFileLock, "acquire", full)
    with (
        pytest.raises(UserError, match=r"file .*key\): cannot be written \(No space left on device\); free the disk"),
        Store(tmp_path).claim("key"),
    ):
        pass


def test_only_what_is_half_written_or_forgotten_is_removed(tmp_path):
    """A checkpoint of a pack that will not train together again, say; not that of a study stopped last week."""
    store = Store(tmp_path)
    store.prepare()
    put(store, 0)
    day = 86_400
    old = {
        store.path(trial(0).key): 400 * day,
        store.path(trial(0).key).with_name(".0123456789abcdef.json.123-0a1b2c3d"): 2 * day,
        store.path(trial(0).key).with_name(".0123456789abcdef.json.123-4e5f6071"): 0.5 * day,
        store.networks / "a.safetensors": 400 * day,
        store.networks / ".a.safetensors.1-00000000": 2 * day,
        store.root / "features" / "a.safetensors": 400 * day,
        store.root / "features" / ".a.safetensors.1-00000000": 2 * day,
        store.checkpoint("stopped"): 7 * day,
        store.checkpoint("forgotten"): 31 * day,
        store.root / "checkpoints" / ".b.pt.1-00000000": 2 * day,
    }
    for path, age in old.items():
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    store.prepare()
    left = {path for path in old if path.exists()}
    halves = {path for path in old if path.name.startswith(".")}
    assert left & halves == {path for path in halves if old[path] < day}
    assert old.keys() - left - halves == {store.checkpoint("forgotten")}


@pytest.mark.parametrize(
    ("status", "columns", "is_settled"),
    [
        ("ok", ("accuracy",), True),
        ("ok", ("accuracy", "another"), False),
        ("diverged: by step 50", ("accuracy", "another"), True),
        ("failed: MemoryError", (), False),
        ("refused: tap", (), False),
    ],
)
def test_what_is_settled(status, columns, is_settled):
    assert settled({"status": status, "metrics": {"accuracy": 0.5}}, columns) is is_settled
    assert not settled(None, columns)


def test_records_unite_what_was_measured(tmp_path):
    store, made = Store(tmp_path), trial(0)
    store.put(made, "failed: MemoryError", {}, 1.0, HERE)
    assert store.lacks(made)
    put(store, 0)
    assert not store.lacks(made, ("accuracy",))
    assert store.lacks(made, ("accuracy", "silhouette"))
    assert store.status([made], ("silhouette",)) is None
    store.put(made, "ok", {"silhouette": 0.1, "n": 401}, 2.0, HERE)
    assert store.get(made.key)["metrics"] == {"accuracy": 0.25, "n": 401, "silhouette": 0.1}
    assert store.status([made], ("silhouette",)) == "ok"
    kept = store.path(made.key).read_bytes()
    for status in ("failed: MemoryError", "refused: tap", "diverged: by step 50"):
        assert store.put(made, status, {}, 3.0, HERE)["status"] == "ok"
    assert store.path(made.key).read_bytes() == kept


def test_what_was_tried_in_vain_is_known_by_its_record(tmp_path):
    store, made = Store(tmp_path, tmp_path / "shared"), Pretrained(S.source_of(), S.backbone, 0)
    assert store.lacks(made)
    for status, lacks in (("failed: MemoryError", True), ("refused: per_class", True), ("diverged: by step 50", False)):
        store.put(made, status, {}, 1.0, HERE)
        assert (store.lacks(made), store.reason(made)) == (lacks, status)
    assert store.status([made]) == "diverged: by step 50"
    shared = tmp_path / "shared" / f"{made.key}.safetensors"
    shared.parent.mkdir()
    shared.touch()
    assert (store.file(made), store.lacks(made), store.reason(made)) == (shared, False, None)
    given = replace(made, source=Weights("file:net.pt", "0123"))
    assert (store.lacks(given), store.reason(given)) == (False, None)


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path, monkeypatch):
    """Processes of two machines may have the same number."""
    names, replaced = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (names.append(source), replaced(source, target)))
    for _ in range(2):
        put(Store(tmp_path), 0)
    assert len(set(names)) == 2


def test_a_store_is_the_same_folder_for_workers_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Store("here").root == tmp_path / "here"
    monkeypatch.setenv("TRANSFERLAB_STORE", "there")
    assert Store().root == tmp_path / "there"


def test_published_records_come_back(tmp_path):
    store, published = Store(tmp_path / "store"), Published(tmp_path / "results")
    records = [put(store, 3), put(store, 1), put(store, 2, day="2026-01-02")]
    path = published.write("cpu", "chapter", records)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["records"] for line in lines if "key" not in line] == [2, 1]
    assert [line["key"] for line in lines if "key" in line] == sorted(r["key"] for r in records)
    found = published.read("cpu", "chapter")
    for r in records:
        assert found[r["key"]] == {k: r[k] for k in ("key", "label", "status", "seconds", "metrics", "provenance")}
    assert published.read("gpu") == {}
    assert {b["chapter"] for b in published.batches()} == {"chapter"}


def test_only_a_status_that_is_not_ok_is_written(tmp_path):
    store, published = Store(tmp_path / "store"), Published(tmp_path / "results")
    diverged = put(store, 1) | {"status": "diverged: by step 50", "metrics": {}}
    path = published.write("cpu", "chapter", [put(store, 0), diverged])
    found = published.read("cpu", "chapter")
    assert sorted(r["status"] for r in found.values()) == ["diverged: by step 50", "ok"]
    assert found[diverged["key"]]["metrics"] == {}
    assert path.read_text().count("status") == 1


def test_publishing_twice_changes_nothing(tmp_path):
    store, published = Store(tmp_path / "store"), Published(tmp_path / "results")
    before = published.write("cpu", "c", [put(store, s) for s in range(3)]).read_text()
    assert published.write("cpu", "c", published.read("cpu", "c").values()).read_text() == before


def test_a_published_row_is_short(tmp_path):
    path = Published(tmp_path).write("cpu", "c", [put(Store(tmp_path), 0)])
    assert max(len(line) for line in path.read_text().splitlines()) < 300


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2 is no JSON; restore the file with git"), ('{"key": "a", "batch": 7}', "line 2 names a batch")],
)
def test_damaged_results(tmp_path, line, message):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "c.jsonl").write_text('{"batch": 0}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        Published(tmp_path).read()
