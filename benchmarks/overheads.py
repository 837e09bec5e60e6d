"""What it costs to ask: reading ten thousand records, planning ten thousand runs, importing the package.

    python benchmarks/overheads.py
    python benchmarks/overheads.py --quick --device cpu

Expected: at most 1 s to read, 2 s to plan, 0.3 s to import.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import machine, write


def study(count: int) -> list:
    """Return many different trials."""
    from transferlab import scales
    from transferlab.specs import Trial

    s = scales.scale("smoke")
    method = replace(s.finetune, recipe=replace(s.train, lr=0.05))
    return [Trial(s.target("synthetic:0"), method, s.backbone, seed, s.source_of()) for seed in range(count)]


def reading(count: int) -> float:
    """Return the seconds in which a new `Lab` reads as many records from its store."""
    from transferlab.lab import Lab
    from transferlab.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for trial in study(count):
            store.put(trial, "ok", {"accuracy": 0.5, "n": 100}, 1.0, {"commit": "x", "day": "2026-01-01"})
        asked = study(count)
        began = time.perf_counter()
        Lab(folder).run(asked)
        return time.perf_counter() - began


def planning(count: int) -> float:
    """Return the seconds in which as many missing trials are planned."""
    from transferlab.lab import Lab

    with tempfile.TemporaryDirectory() as folder:
        asked = study(count)
        began = time.perf_counter()
        Lab(folder).plan(asked)
        return time.perf_counter() - began


def importing() -> float:
    """Return the seconds of the import in a fresh interpreter."""
    code = "import time; t = time.perf_counter(); import transferlab; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of a hundred")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rounds, count = (1, 100) if given.quick else (given.rounds, 10_000)
    kept = [{"reading": reading(count), "planning": planning(count), "import": importing()} for _ in range(rounds)]
    words = {
        "reading": (f"`Lab.run` of {count} trials on record", "1"),
        "planning": (f"planning {count} missing ones", "2"),
    }
    words["import"] = ("`import transferlab`", "0.3")
    middle = {name: statistics.median(r[name] for r in kept) for name in words}
    rows = [
        {"what": what, "value": middle[name], "unit": "s", "target": f"at most {most}"}
        for name, (what, most) in words.items()
    ]
    write("overheads", rows, {"rounds": rounds, **machine()}, kept, given.out, given.quick)


if __name__ == "__main__":
    main()
