"""Kill a study at random moments, go on, and compare: no record is torn, doubled or lost, and the bits are the same.

    python tests/interruptions.py --kills 200 --seed 0

The study is ``transferlab run study`` in a folder of its own: two sources and ten trials of the synthetic world, a few
steps each, with a checkpoint after every fifth. Processes are forked from this one, which has imported everything, and
get a real SIGKILL, their workers with them. Kinds of kills:

- ``trial``: a moment while a trial or a source has a checkpoint, after some records;
- ``study``: any moment of a run;
- ``write``: just before, halfway through or just after a file of the store is written, renamed or removed;
- ``pool``: with two spawned workers, a moment after something changed in the store;
- ``beside``: one of two processes that run the same study; the other one finishes it;
- ``publish``: as ``write``, of the file in ``results/``;
- ``papermill``: while the notebook is executed, which trains in its kernel.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from transferlab.errors import UserError
from transferlab.methods import FineTune, Probe, Scratch, SourceTask
from transferlab.specs import AlexNet, OneOf, Recipe, Source, Spec, Subset, Target, Trial
from transferlab.store import Published

SIZE = 16
BACKBONE = AlexNet((4, 6, 8, 8, 8), (16, 16))
SOURCE = Source(
    "synthetic:source", SIZE, Recipe(steps=54, batch=8, lr=0.05), Subset(classes=5)
)  # more than a block of steps
TARGET = Target("synthetic:0", SIZE, Subset(classes=5, per_class=4))
TUNED, SEARCHED = Recipe(steps=20, batch=8, lr=0.05), Recipe(steps=9, batch=8, lr=OneOf(0.02, 0.05, seeds=(0, 1)))
SEEDS = (0, 1)
KEYS = {"key", "label", "status", "metrics", "seconds", "provenance"}  # beside what was made, under its kind
RUN = "run study --scale cpu --seeds 0,1 --device cpu --no-page --workers"

MOMENTS = {  # of what is written below a folder: what can be interrupted, and how often it happens in a study, about
    "records": (("open", "half", "rename", "renamed"), 10),
    "networks": (("open", "half", "rename", "renamed"), 2),
    "checkpoints": (("open", "half", "rename", "renamed", "remove"), 12),
    "claims": (("open", "remove"), 6),
    "features": (("open", "half", "rename", "renamed"), 3),
    "results": (("open", "half", "rename", "renamed"), 1),
}
SHARES = {"trial": 5, "study": 4, "write": 6, "pool": 1, "beside": 1, "publish": 2, "papermill": 1}  # of every 20 kills

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
  language: python
---

"""

NOTEBOOK = (
    HEADER
    + """# A study

```{code-cell} ipython3
:tags: [parameters]
scale: str = "cpu"
seeds: "Union[int, str]" = "0,1"
run: str = "missing"
device: str = "cpu"
workers: "Optional[int]" = 1
```

```{code-cell} ipython3
:tags: [design]
from interruptions import trials


def design(scale, seeds):
    return [({}, trial) for trial in trials(seeds)]
```

```{code-cell} ipython3
:tags: [rule]
RULES = []
```

```{code-cell} ipython3
:tags: [short]
def short(study):
    raise AssertionError("there is nothing to say of it")
```

```{code-cell} ipython3
import os
from pathlib import Path

from interruptions import checkpoint_often

Path(f"kernel.{os.getpid()}").touch()
checkpoint_often()
```

```{code-cell} ipython3
from transferlab import scales
from transferlab.lab import Lab

designed = [trial for _, trial in design(scale, scales.seed_list(seeds))]
records = Lab(run=run, device=device, workers=workers, quiet=True).run(designed)
print(f"{(records['status'] == 'ok').sum()} results")
```
"""
)


class Torn(AssertionError):
    """Something is not as it was promised to be after a kill."""


def trials(seeds: Iterable[int]) -> list[Trial]:
    """Return the study's trials: three share a source, one searches its learning rate, by the same two seeds."""
    return [
        trial
        for seed in seeds
        for trial in (
            Trial.of_source(SOURCE, SourceTask(), BACKBONE, seed),
            Trial(TARGET, FineTune(TUNED), BACKBONE, seed, SOURCE),
            Trial(TARGET, Probe(), BACKBONE, seed, SOURCE),
            Trial(TARGET, Scratch(SEARCHED), BACKBONE, seed),
        )
    ]


def checkpoint_often() -> None:
    """Let training keep its state after every fifth step, in this process."""
    from transferlab.train.checkpoint import Checkpoint

    asked = itertools.count(1)
    Checkpoint.due = lambda self: next(asked) % 5 == 0


if __name__ == "__mp_main__":  # a worker of a pool, which was spawned
    checkpoint_often()


def make_project(folder: Path) -> Path:
    """Make a project with the study's notebook, and return its folder."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (folder / "notebooks" / "study.md").write_text(NOTEBOOK)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that works in a project."""
    import transferlab

    found = [
        str(Path(__file__).parent),
        str(Path(transferlab.__file__).parent.parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    path = os.pathsep.join(p for p in found if p)
    return {"TRANSFERLAB_STORE": str(folder / "store"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


# ----------------------------------------------------------------------------------------------------------- killing


@dataclass
class Bomb:
    """Kills this process the `nth` time that a moment comes of writing a file below a folder.

    Attributes
    ----------
    folder : str
        A name in `MOMENTS`.
    moment : str
        ``open``: before the file is opened; ``half``: half of it is written; ``rename``: before, and ``renamed``:
        after it gets its name; ``remove``: before it is removed.
    nth : int
    """

    folder: str
    moment: str
    nth: int
    opened: bool = False

    @classmethod
    def drawn(cls, draw: random.Random, folder: str) -> "Bomb":
        """Return one for any moment of a study."""
        moments, often = MOMENTS[folder]
        return cls(folder, draw.choice(moments), draw.randint(1, often))

    def arm(self) -> None:
        """Listen to everything that this process opens, renames and removes."""
        fsync, replace = os.fsync, os.replace

        def half(file: int) -> None:
            if self.opened:
                self.tick("half", lambda: os.ftruncate(file, os.fstat(file).st_size // 2))
            fsync(file)

        def renamed(source, target, **more) -> None:
            replace(source, target, **more)
            if self.below(target):
                self.tick("renamed")

        os.fsync, os.replace = half, renamed
        sys.addaudithook(self.hear)

    def below(self, path: object) -> bool:
        """Whether a path is one of those."""
        return self.folder in Path(os.fspath(path)).parts if isinstance(path, str | os.PathLike) else False

    def hear(self, event: str, arguments: tuple) -> None:
        """Take note of an audit event of Python's."""
        if event == "open" and arguments[2] & os.O_CREAT:
            self.opened = self.below(arguments[0])
            if self.opened:
                self.tick("open")
        elif event == "os.rename" and self.below(arguments[1]):
            self.tick("rename")
        elif event == "os.remove" and self.below(arguments[0]):
            self.tick("remove")

    def tick(self, moment: str, before: Callable[[], None] = lambda: None) -> None:
        """Count a moment, and kill if it is the one."""
        if moment == self.moment:
            self.nth -= 1
            if self.nth == 0:
                before()
                os.kill(os.getpid(), signal.SIGKILL)


def fork(folder: Path, action: Callable[[], None], bomb: Bomb | None = None, often: bool = True) -> int:
    """Start a process, the first of a group of its own, that works in a project, and return its id."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the threads that forking may hurt belong to idle libraries
        pid = os.fork()
    if pid:
        with suppress(OSError):  # it was faster
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        os.environ |= environment(folder)
        if often:
            checkpoint_often()
        if bomb:
            bomb.arm()
        action()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def command(workers: int = 1) -> Callable[[], None]:
    """Return what runs the study and publishes it."""

    def run() -> None:
        from transferlab.cli import main

        sys.argv = ["transferlab", *RUN.split(), str(workers)]
        main()

    return run


def page(folder: Path) -> Callable[[], None]:
    """Return what executes the study's notebook through papermill, which trains in its kernel."""

    def run() -> None:
        from transferlab.build import execute

        execute(folder / "notebooks" / "study.md", folder / "page.ipynb", {"seeds": "0,1"})

    return run


def ended(pid: int, options: int = 0) -> int | None:
    """Wait for a process, and return its exit code, negative if it was killed; or ``None`` if it goes on.

    Raises
    ------
    Torn
        If it neither ended well nor was killed.
    """
    found, status = os.waitpid(pid, options)
    code = os.waitstatus_to_exitcode(status) if found else None
    if code not in (None, 0, -signal.SIGKILL):
        raise Torn(f"a run ended with exit code {code}")
    return code


def over(pid: int, seconds: float = 0.0) -> bool:
    """Whether a process ended, or ends within some seconds; it is not asked for again then."""
    until = time.monotonic() + seconds
    while ended(pid, os.WNOHANG) is None:
        if time.monotonic() >= until:
            return False
        time.sleep(0.002)
    return True


def kill(pid: int) -> None:
    """Kill a process and its workers, and wait until they are gone."""
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except OSError:
            return
        time.sleep(0.002)


def changed(folder: Path, names: Iterable[str], since: int) -> bool:
    """Whether a file below some folders of the store is younger than a time in nanoseconds."""
    for name in names:
        for path, _, files in os.walk(folder / "store" / name):
            for file in files:
                try:
                    if os.stat(os.path.join(path, file)).st_mtime_ns > since:
                        return True
                except FileNotFoundError:
                    continue
    return False


def killed(pid: int, aim: Callable[[], bool], delay: float) -> bool:
    """Kill a process some seconds after `aim` says so, and return whether that was before its end."""
    try:
        while not aim():
            if over(pid, 0.002):
                return False
        if over(pid, delay):
            return False
    except BaseException as e:
        if not isinstance(e, Torn):
            kill(pid)
        raise
    kill(pid)
    return True


def bombed(pid: int) -> bool:
    """Wait for a process to end, and return whether it killed itself."""
    return ended(pid) != 0


def finish(pid: int) -> None:
    """Wait for a process to end, which nobody was to kill.

    Raises
    ------
    Torn
        If somebody did.
    """
    if ended(pid) != 0:
        raise Torn("a run was killed by somebody else")


# ---------------------------------------------------------------------------------------------------------- checking


def weights(path: Path) -> bytes:
    """Return a network file's tensors, without what it says about their making."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    names = {k: v for k, v in json.loads(data[8:start]).items() if k != "__metadata__"}
    if start + max(v["data_offsets"][1] for v in names.values()) != len(data):
        raise Torn(f"{path}: {len(data)} bytes")
    return json.dumps(names, sort_keys=True).encode() + data[start:]


def measured(record: dict) -> str:
    """Return what must not differ between two runs of a trial: its status and metrics, seconds left out."""
    metrics = {k: v for k, v in record["metrics"].items() if not k.endswith("seconds")}
    return json.dumps([record["status"], metrics], sort_keys=True)


def read_records(store: Path) -> dict[str, bytes]:
    """Return the record files of trials by key; those of networks and features are checked, too.

    Raises
    ------
    Torn
        If a file is no whole record, or is not the one that its name says.
    """
    found: dict[str, bytes] = {}
    for path in sorted(store.glob("records/*/*.json")):
        text = path.read_bytes()
        try:
            record = json.loads(text)
            (kind,) = record.keys() - KEYS
            made = Spec.from_dict(record[kind])
            whole = record.keys() >= KEYS and record["key"] == path.stem == made.key and made.kind == kind
        except (ValueError, KeyError, TypeError):
            whole = False
        if whole and kind == "trial":
            found[path.stem] = text
        if not whole or path.parent.name != path.stem[:2] or path.name.startswith("."):
            raise Torn(f"{path}: {text[:200]!r}")
    return found


@dataclass
class Study:
    """A project in which the study is run, killed and gone on with until it is complete.

    Attributes
    ----------
    folder : Path
    records : dict
        Record files by key that were there after the last kill; none of them may ever change.
    """

    folder: Path
    records: dict[str, bytes] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def networks(self) -> dict[str, bytes]:
        """Return the weights of every network by its key."""
        return {p.stem: weights(p) for p in sorted((self.store / "networks").glob("*.safetensors"))}

    def half_done(self) -> bool:
        """Whether a trial or a source left a checkpoint."""
        return any((self.store / "checkpoints").glob("*.pt"))

    def recorded(self) -> int:
        """Return the number of records that are there now."""
        return sum(1 for _ in self.store.glob("records/*/*.json"))

    def check(self, reference: "Study | None" = None) -> int:
        """Check everything that is there, and return how many records and networks differ from the reference's.

        Raises
        ------
        Torn
            If a file is not whole, or a record changed.
        """
        found = read_records(self.store)
        for key, text in self.records.items():
            if found.get(key) != text:
                raise Torn(f"record {key} in {self.folder} was there and was made again")
        self.records, networks = found, self.networks()
        published = Published(self.folder / "results").read("cpu", "study")
        if not all(measured(r) == measured(json.loads(found[k])) for k, r in published.items()):
            raise Torn(f"{self.folder}: published records are not the store's")
        page = self.folder / "page.ipynb"
        if page.exists():
            cells = json.loads(page.read_text())["cells"]
            if cells[-1]["outputs"][0]["text"] not in ("8 results\n", ["8 results\n"]):
                raise Torn(f"{page}: {cells[-1]['outputs']}")
        if reference is None:
            return 0
        wanted = {k: measured(json.loads(v)) for k, v in reference.records.items()} | reference.networks()
        there = {k: measured(json.loads(v)) for k, v in found.items()} | networks
        return sum(wanted.get(k) != v for k, v in there.items())

    def complete(self, reference: "Study") -> bool:
        """Whether every record is there."""
        return self.records.keys() == reference.records.keys()


# ------------------------------------------------------------------------------------------------------------- kinds


@dataclass
class Interruptions:
    """Kills studies below a folder, and counts.

    Attributes
    ----------
    root : Path
    draw : Random
    counts : Counter
        Of kills by kind, and of ``studies``, ``records`` compared, ``differing`` and ``half done``.
    """

    root: Path
    draw: random.Random
    counts: Counter = field(default_factory=Counter)
    lasts: float = 0.0  # seconds, a study with many checkpoints

    def begin(self) -> None:
        """Run the study without interruption or checkpoints, for reference, and once with them, for its time."""
        preload()
        self.reference, study = self.new(), self.new()
        finish(fork(self.reference.folder, command(), often=False))
        self.reference.check()
        began = time.monotonic()
        finish(fork(study.folder, command()))
        self.lasts = time.monotonic() - began
        self.done(study)

    def new(self) -> Study:
        """Return a study of which nothing is done."""
        self.counts["begun"] += 1
        return Study(make_project(self.root / f"study{self.counts['begun']}"))

    def done(self, study: Study) -> None:
        """Compare a complete study with the reference, and remove it unless it differs."""
        differing = study.check(self.reference) + len(self.reference.records.keys() - study.records.keys())
        self.counts.update(studies=1, records=len(study.records), differing=differing)
        for path in study.folder.glob("kernel.*"):
            _gone(int(path.suffix[1:]))
        if not differing:
            shutil.rmtree(study.folder, ignore_errors=True)

    def after(self, study: Study, kind: str) -> None:
        """Check a study that was killed."""
        study.check()
        self.counts.update([kind], **{"half done": study.half_done()})

    def once(self, study: Study, kind: str) -> bool:
        """Run a study and kill it, and return whether it was killed before its end."""
        since, draw = time.time_ns(), self.draw
        if kind == "write":
            written = [name for name in MOMENTS if name == "checkpoints" or (self.reference.store / name).is_dir()]
            folder = draw.choice(written)
            return bombed(fork(study.folder, command(), Bomb.drawn(draw, folder)))
        if kind == "publish":
            return bombed(fork(study.folder, command(), Bomb.drawn(draw, "results")))
        if kind == "pool":
            since_changed = lambda: changed(study.folder, ("records", "networks", "checkpoints"), since)  # noqa: E731
            return killed(fork(study.folder, command(2)), since_changed, draw.uniform(0, 0.4 * self.lasts))
        if kind == "papermill":
            at_once = draw.random() < 0.3
            aim = lambda: at_once or changed(study.folder, ("networks", "checkpoints"), since)  # noqa: E731
            return killed(
                fork(study.folder, page(study.folder)), aim, draw.uniform(0, 2 if at_once else 0.8 * self.lasts)
            )
        if kind == "trial":
            wanted = min(study.recorded() + draw.randint(0, 6), self.reference.recorded() - 1)
            aim = lambda: study.half_done() and study.recorded() >= wanted  # noqa: E731
            return killed(fork(study.folder, command()), aim, draw.uniform(0, 0.1 * self.lasts))
        if kind == "beside":
            other = fork(study.folder, command())
            found = killed(fork(study.folder, command()), lambda: True, draw.uniform(0, self.lasts))
            finish(other)
            return found
        return killed(fork(study.folder, command()), lambda: True, draw.uniform(0, 0.7 * self.lasts))

    def studies(self, kinds: list[str]) -> None:
        """Kill studies in as many ways, going on after each, a new one whenever one is complete."""
        study = self.new()
        while kinds:
            if self.once(study, kinds[-1]):
                self.after(study, kinds.pop())
            else:
                study.check()
            if study.complete(self.reference):
                self.done(study)
                study = self.new()
        finish(fork(study.folder, command()))
        self.done(study)

    def publishing(self, times: int) -> None:
        """Kill the writing of published records, where there were none, or those of one seed."""
        study, made = self.new(), 0
        finish(fork(study.folder, command()))
        study.check()
        records = [json.loads(v) for v in study.records.values()]
        published = Published(study.folder / "results")
        some = [r for r in records if r["trial"]["seed"] == 0]
        while made < times:
            before = self.draw.choice(([], some))
            path = published.write("cpu", "study", before)
            if not before:
                path.unlink()
            if self.once(study, "publish"):
                made += 1
                self.after(study, "publish")
                there = len(Published(study.folder / "results").read("cpu", "study")) if path.exists() else 0
                if there not in (len(before), len(records)):
                    raise Torn(f"{path}: {there} records")
        finish(fork(study.folder, command()))
        self.done(study)

    def pages(self, times: int) -> None:
        """Kill papermill, two or three times a page."""
        while times:
            study = self.new()
            for _ in range(min(times, self.draw.choice((2, 3)))):
                if not self.once(study, "papermill"):
                    break
                times -= 1
                self.after(study, "papermill")
            finish(fork(study.folder, page(study.folder)))
            self.done(study)

    def run(self, kills: int) -> None:
        """Do it all."""
        kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
        number = Counter(kinds[i * 7 % 20] for i in range(kills))
        self.begin()
        rest = [k for k in number.elements() if k not in ("publish", "papermill")]
        self.draw.shuffle(rest)
        self.studies(rest)
        self.publishing(number["publish"])
        self.pages(number["papermill"])

    def text(self) -> str:
        """Return the counts as one line."""
        c = self.counts
        kinds = ", ".join(f"{kind} {c[kind]}" for kind in SHARES)
        return (
            f"{sum(c[k] for k in SHARES)} kills ({kinds}; {c['half done']} left a trial half done); "
            f"{c['studies']} studies completed, {c['records']} records compared, {c['differing']} differing"
        )


def preload() -> None:
    """Import and draw what every forked process needs, on one thread."""
    import jupytext  # noqa: F401
    import papermill  # noqa: F401
    import torch

    from transferlab import build, cli  # noqa: F401
    from transferlab.data.images import load
    from transferlab.run import work  # noqa: F401

    torch.set_num_threads(1)
    for images in (SOURCE.images, TARGET.images):
        load(images, SIZE)


def _gone(pid: int) -> None:
    """Wait for a process that is no child of this one: a kernel notices by itself that its master is gone."""
    until = time.monotonic() + 20
    ask = ["ps", "-o", "stat=", "-p", str(pid)]
    while (
        state := subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    ) and not state.startswith("Z"):
        if time.monotonic() > until:
            raise Torn(f"the kernel {pid} did not end when papermill was killed")
        time.sleep(0.1)


def main() -> int:
    """Read the command line, do it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Where to work; by default a temporary folder.")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="interruptions-", dir=given.folder))
    work = Interruptions(root, random.Random(given.seed))
    try:
        work.run(given.kills)
    except (Torn, UserError) as e:
        print(f"{e}\n" + "\n".join(p.read_text()[-2000:] for p in root.glob("*/log")) + f"\n{work.text()}; kept {root}")
        return 1
    if work.counts["differing"]:
        print(f"{work.text()}; kept {root}")
        return 1
    shutil.rmtree(root, ignore_errors=True)
    print(work.text())
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
