"""What every test starts from: folders of its own, one thread, no machine's data."""

import pytest
import torch
from hypothesis import settings

from transferlab.data import images

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("tests")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Image sets, cache, store and weights of this test alone; the book is not being built."""
    for name in ("data", "cache", "store", "weights"):
        monkeypatch.setenv(f"TRANSFERLAB_{name.upper()}", str(tmp_path / name))
    monkeypatch.delenv("TRANSFERLAB_BOOK", raising=False)
    images._decoded.cache_clear()  # it maps files of the last test's folder; the synthetic world is the same for all
