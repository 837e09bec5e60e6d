"""What every benchmark shares: contestants in processes of their own, the machine, the file of results."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def ask(script: str, **options: object) -> dict:
    """Run a script in a process of its own, with the options given, and return the JSON of its last line."""
    words = [str(w) for name, value in options.items() for w in (f"--{name.replace('_', '-')}", value)]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine(device: str = "cpu") -> dict:
    """Say what this was measured on."""
    import torch

    from transferlab.cores import cpu_workers
    from transferlab.run.devices import COMMIT, processor

    about = {
        "commit": COMMIT,
        "processor": processor(),
        "cores": cpu_workers(1),
        "torch": torch.__version__,
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    return about | ({"gpu": torch.cuda.get_device_name()} if device.startswith("cuda") else {})


def step_by_step() -> None:
    """Have steps of training done as they come from now on, also on a GPU, where one is captured and replayed."""
    from transferlab.train import fit

    fit.may_be_captured = lambda runs, feed: False


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """Return the median over rounds of how many times ours is theirs."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def write(
    name: str, rows: list[dict], about: dict, runs: list[dict], out: Path | None, quick: bool, last: bool = True
) -> None:
    """Write what was measured, unless it was only a quick look; print it when the `last` round is over.

    Parameters
    ----------
    rows : list of dict
        What the summary shows: ``what``, ``value``, ``unit`` and, where there is one, ``target``.
    """
    for row in rows if last else ():
        wanted = f" (wanted: {row['target']})" if "target" in row else ""
        print(f"{row['what']}: {row['value']:.3g} {row['unit']}{wanted}")
    path = out or (None if quick else RESULTS / f"{name}.json")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"benchmark": name, **about, "rows": rows, "runs": runs}, indent=1) + "\n")
