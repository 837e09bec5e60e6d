"""Records: written whole or not at all, published in a form that can be reviewed."""

import errno
import json
import os
import time
from types import SimpleNamespace

import pytest

from transferlab import scales
from transferlab import store as module
from transferlab.errors import UserError
from transferlab.specs import Trial
from transferlab.store import Published, Store

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
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: (halves[1].unlink(missing_ok=True), time.time() + 90_000)[1]))
    store.prepare()
    assert not list(store.networks.iterdir())


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
    ("line", "message"), [("{", "line 2 is no JSON; restore the file with git"), ('{"key": "a", "batch": 7}', "line 2 names a batch")]
)
def test_damaged_results(tmp_path, line, message):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "c.jsonl").write_text('{"batch": 0}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        Published(tmp_path).read()
