"""Where pins are kept: beside the image sets, else in a place of the user's; none is lost."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from transferlab.errors import DiskError, UserError
from transferlab.paths import cache_root, data_root
from transferlab.specs import catalog

ENTRY = {"fingerprint": "0" * 16, "classes": 2, "splits": {"train": 4}, "names": "1" * 16}


@pytest.fixture
def read_only(monkeypatch):
    """Folders in which nothing can be written, also by root."""
    closed, really = [], os.access
    monkeypatch.setattr(os, "access", lambda path, how: str(path) not in closed and really(path, how))

    def close(folder):
        folder.mkdir(parents=True, exist_ok=True)
        closed.append(str(folder))

    return close


def test_pins_lie_beside_the_image_sets():
    data_root().mkdir()
    catalog.pin("bugs", ENTRY)
    assert catalog.local_path("bugs") == data_root() / "manifest.json"
    assert json.loads((data_root() / "manifest.json").read_text()) == {"bugs": ENTRY}
    assert not cache_root().exists()


def test_a_folder_of_image_sets_that_cannot_be_written(read_only, monkeypatch, tmp_path):
    """Pins go to the cache, each folder of sets has its own there, and what others pinned in it is found."""
    data_root().mkdir()
    catalog.pin("bugs", ENTRY)
    read_only(data_root())
    assert catalog.pinned("bugs") == ENTRY
    mine = ENTRY | {"skipped": ["train/0.png"]}
    catalog.pin("bugs", mine)
    assert catalog.local_path("bugs").parent == cache_root()
    assert catalog.pinned("bugs") == mine
    monkeypatch.setenv("TRANSFERLAB_DATA", str(tmp_path / "others"))
    with pytest.raises(UserError, match=r"data set \(=bugs\): must be one of"):
        catalog.pinned("bugs")


@pytest.mark.parametrize("content", ["[]", '{"shards": 3}', '{"bugs": {"classes": 2}}'])
def test_a_manifest_of_somebody_else(content):
    """Other programs have files of that name, too."""
    data_root().mkdir()
    (data_root() / "manifest.json").write_text(content)
    for ask in (lambda: catalog.pinned("bugs"), lambda: catalog.pin("bugs", ENTRY)):
        with pytest.raises(UserError, match=r"manifest \(=.*\): holds something else than pins; rename it"):
            ask()
    assert (data_root() / "manifest.json").read_text() == content


def test_the_published_set_where_somebody_pinned_another_one(read_only, monkeypatch):
    data_root().mkdir()
    catalog.pin("bugs", ENTRY | {"classes": 3})
    read_only(data_root())
    monkeypatch.setattr(catalog, "packaged", lambda: {"bugs": ENTRY})
    catalog.pin("bugs", ENTRY)
    assert catalog.pinned("bugs") == ENTRY


@pytest.mark.parametrize("there", [False, True])
def test_pins_of_folders_survive_another_folder_of_image_sets(monkeypatch, tmp_path, there):
    if there:
        data_root().mkdir()
    catalog.pin("folder:/pets", ENTRY)
    (tmp_path / "new").mkdir()
    monkeypatch.setenv("TRANSFERLAB_DATA", str(tmp_path / "new"))
    assert catalog.pinned("folder:/pets") == ENTRY
    assert catalog.names()[-1] == "folder:/pets"


def test_pins_survive_a_folder_of_image_sets_that_is_made_later():
    catalog.pin("torchvision:DTD", ENTRY)
    data_root().mkdir()
    assert catalog.pinned("torchvision:DTD") == ENTRY
    newer = ENTRY | {"classes": 3}
    catalog.pin("torchvision:DTD", newer)
    assert catalog.pinned("torchvision:DTD") == newer


def test_a_cache_that_cannot_be_written_matters_only_where_it_is_needed():
    cache_root().write_text("a file is in the way")
    data_root().mkdir()
    catalog.pin("folder:/pets", ENTRY)
    assert catalog.pinned("folder:/pets") == ENTRY
    shutil.rmtree(data_root())
    with pytest.raises(
        DiskError, match=r"manifest \(=.*manifest.json\): cannot be written \(.*\); name another folder"
    ):
        catalog.pin("folder:/pets", ENTRY)


def test_a_machine_without_a_home(monkeypatch):
    data_root().mkdir()
    monkeypatch.setattr(catalog, "cache_root", lambda: (_ for _ in ()).throw(UserError("no home")))
    catalog.pin("folder:/pets", ENTRY)
    assert catalog.pinned("folder:/pets") == ENTRY
    shutil.rmtree(data_root())
    with pytest.raises(UserError, match="no home"):
        catalog.pin("folder:/pets", ENTRY)


PIN = """
import sys
from transferlab.specs import catalog
for i in range(15):
    catalog.pin(f"folder:/{sys.argv[1]}/{i}", {"fingerprint": "0"})
"""


def test_pinning_at_once_loses_nothing():
    data_root().mkdir()
    workers = [subprocess.Popen([sys.executable, "-c", PIN, str(w)]) for w in range(3)]
    assert [w.wait() for w in workers] == [0, 0, 0]
    for path in catalog.manifests()[:2]:
        assert len(json.loads(path.read_text())) == 45
    assert {p.name for p in data_root().iterdir()} <= {"manifest.json", ".manifest.json.lock"}


@pytest.mark.parametrize("answer", ["ENOSYS", "ENOLCK"])
def test_a_file_system_without_locks(monkeypatch, answer):
    import errno
    import fcntl

    def flock(file, how):
        raise OSError(getattr(errno, answer), "as there")

    monkeypatch.setattr(fcntl, "flock", flock)
    data_root().mkdir()
    for i in range(2):
        catalog.pin(f"bugs{i}", ENTRY)
    assert catalog.local().keys() == {"bugs0", "bugs1"}


def test_what_is_said_of_a_set():
    entry = ENTRY | {
        "splits": {"train": 4, "test": 2},
        "named": "cat, dog",
        "skipped": ["train/a", "train/b", "train/c", "train/d"],
        "several": 2,
        "passed": {"hidden": [3, "x, y, z"], "broken links": [1, "w"]},
    }
    assert catalog.notes({"fingerprint": "0" * 16}) == []
    assert catalog.notes(ENTRY) == ["no test images: a source, and no target"]
    assert catalog.notes(entry) == [
        "classes cat, dog",
        "4 unreadable left out (train/a, train/b, train/c ...)",
        "2 with several pictures, of which the first is read",
        "passed over: broken links 1 (w), hidden 3 (x, y, z)",
    ]
