"""Files that are absent, old or whole, whatever happens while they are written; and folders that a machine lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transferlab.errors import DiskError, UserError
from transferlab.paths import cache_root, project, store_root, weights_file, writable, write_atomically


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_write_that_ends_early_leaves_nothing(tmp_path, error):
    def half(file):
        file.write(b"half")
        raise error

    path = tmp_path / "folder" / "file"
    write_atomically(path, "old")
    for place in (path, path.with_name("other")):
        with pytest.raises(DiskError if error is OSError else error):
            write_atomically(place, half)
    assert [(f.name, f.read_text()) for f in path.parent.iterdir()] == [("file", "old")]


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError, match=r"file \(=.*/file/other\): cannot be written \(.*\); free the disk"):
        write_atomically(tmp_path / "file" / "other", "text")


@pytest.mark.parametrize("name", ["CACHE", "STORE", "DATA"])
def test_a_folder_that_cannot_be_written_is_named_with_its_variable(tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(f"TRANSFERLAB_{name}", str(tmp_path / "file" / "{a} b"))
    place = tmp_path / "file" / "{a} b" / "c"
    with pytest.raises(DiskError, match=rf"free the disk or name another folder with TRANSFERLAB_{name}$"):
        write_atomically(place / "d", "text")
    with pytest.raises(UserError, match=rf"cannot be written \(.*\); name another folder with TRANSFERLAB_{name}$"):
        writable("folder", place)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("~nobody-of-that-name/net.pth", "there is no such file; set TRANSFERLAB_WEIGHTS"),
        ("a\0b", "there is no such file; set TRANSFERLAB_WEIGHTS"),
        ("folder", "cannot be read (Is a directory)"),
        ("closed", "cannot be read (Permission denied)"),
    ],
)
def test_weights_that_cannot_be_read(monkeypatch, tmp_path, name, rule):
    monkeypatch.setenv("TRANSFERLAB_WEIGHTS", str(tmp_path))
    (tmp_path / "folder").mkdir()
    if name == "closed":  # the folder, to root too
        monkeypatch.setattr(os, "access", lambda path, how: False)

        def closed(path, how):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(UserError) as caught:
        weights_file(f"file:{name}")
    assert f"): {rule}" in str(caught.value)


def test_a_folder_that_is_gone(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match=r"folder \(=.\): is gone; change into one that is there"):
        project()


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"HOME": "/h"}, "/h/.cache/transferlab"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/transferlab"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/transferlab"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "TRANSFERLAB_CACHE": "~/y"}, "/h/y"),
    ],
)
def test_where_the_cache_is(monkeypatch, variables, found):
    monkeypatch.delenv("TRANSFERLAB_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_root() == Path(found)


def test_the_home_of_nobody(monkeypatch):
    monkeypatch.setenv("TRANSFERLAB_STORE", "~no-such-person/store")
    rule = "there is no such home folder; name one that can be written"
    with pytest.raises(UserError, match=rf"TRANSFERLAB_STORE \(=~no-such-person/store\): {rule}"):
        store_root()


NOBODY = """
import pwd
def unknown(number): raise KeyError(number)
pwd.getpwuid = unknown
from transferlab import cli, specs
from transferlab.paths import cache_root, writable
from transferlab.specs import catalog
assert "flowers102" in catalog.names()
writable("cache", cache_root())
"""


def test_without_a_home_only_the_cache_is_missed():
    """No variable, and no entry in the list of users."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "TRANSFERLAB_CACHE", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", NOBODY], env=environment, capture_output=True, text=True, check=False)
    message = "cannot be written (Not a directory); name another folder with TRANSFERLAB_CACHE"
    assert done.stderr.splitlines()[-1].endswith(message)
