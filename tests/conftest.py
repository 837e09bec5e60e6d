"""What every test starts from: folders of its own, one thread, no machine's data."""

import os
from pathlib import Path

import pytest
import torch
from browsing import ARGUMENTS, CHROMIUM, loaded, offline_page
from filelock import FileLock
from hypothesis import settings
from small_world import shrink_world

from transferlab import build
from transferlab.data import images
from transferlab.specs import ImageSet

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("tests")
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start: their threads would wait for each other's cores


LONG = (
    "test_interruptions",
    "test_benchmarks",
    "test_pages",
    "test_world",
    "test_lab",
    "test_cluster",
    "test_kept_values",
    "test_checkpoint",
)
SPREAD = ("test_book", "test_smoke")  # each test of which may run beside the others
LAST = ("test_book_records", *SPREAD)
FOLDERS = ("data", "cache", "store", "weights")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process begins with the book, which it builds, the others with long files; what looks at it comes last."""
    order = {name: at for at, name in enumerate((*LONG, "", *LAST))}
    builds = next((item for item in items if item.path.stem == "test_book"), None)
    items.sort(key=lambda item: -1 if item is builds else order.get(item.path.stem, len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each file in one process, for what its tests share, but for `SPREAD`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if Path(file).stem in SPREAD else file

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def no_folders_of_this_machine(tmp_path_factory):
    """What is made for several tests at once has folders of this session."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOLDERS:
            patch.setenv(f"TRANSFERLAB_{name.upper()}", str(tmp_path_factory.mktemp(name)))
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> dict[str, str]:
    """Folders that all pages share, as on a person's machine: a source is trained once, the world drawn once."""
    top = tmp_path_factory.getbasetemp()
    top = top.parent if os.environ.get("PYTEST_XDIST_WORKER") else top  # of all processes
    return {f"TRANSFERLAB_{name}": str(top / f"shared-{name}") for name in ("STORE", "CACHE")}


@pytest.fixture(scope="session")
def book(shared) -> Path:
    """The folder of the built book, which one process builds; the others read where it is."""
    place = Path(f"{shared['TRANSFERLAB_STORE']}.book")
    with pytest.MonkeyPatch.context() as patch, FileLock(f"{place}.lock"):
        for name, folder in shared.items():
            patch.setenv(name, folder)
        if not place.is_file():
            place.write_text(str(build.build(lambda line: None).parent.parent))
    return Path(place.read_text())


@pytest.fixture(scope="module")
def browser():
    """Chromium, for the tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def visit(book, browser):
    """Open a page of the book from disk with the network cut."""
    pages = []

    def opened(name: str, **look):
        page = offline_page(browser, **look)
        pages.append(page)
        page.goto((book / f"{name}.html").as_uri())
        if page.locator(".tl-chart").count():
            loaded(page)
        return page

    yield opened
    for page in pages:
        page.context.close()


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Image sets, cache, store and weights of this test alone; the book is not being built."""
    for name in FOLDERS:
        monkeypatch.setenv(f"TRANSFERLAB_{name.upper()}", str(tmp_path / name))
    monkeypatch.delenv("TRANSFERLAB_BOOK", raising=False)
    images._decoded.cache_clear()  # it maps files of the last test's folder; the synthetic world is the same for all


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A cache with a small synthetic world, for tests that run studies."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERLAB_CACHE", str(folder))
        shrink_world(patch)
        for name in ("synthetic:source", "synthetic:0"):
            images.load(ImageSet(name), 16)
    return folder


@pytest.fixture
def one_world(own_folders, drawn, monkeypatch):
    """That cache is the one of this test, and of the processes that it starts."""
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(drawn))
    shrink_world(monkeypatch)
