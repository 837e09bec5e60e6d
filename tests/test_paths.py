"""Files that are absent, old or whole, whatever happens while they are written."""

import pytest

from transferlab.errors import DiskError
from transferlab.paths import write_atomically


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
