"""What a second Dask worker brings: the same study on one worker of one thread, and on two.

    python benchmarks/cluster.py
    python benchmarks/cluster.py --quick --device cpu

Workers are started before the clock, as on a cluster. Expected on two cores: two at least 1.6 times one.
"""

import argparse
import tempfile
import time
from pathlib import Path

from common import machine, ratio, write
from study import trials


def timed(workers: int, runs: int, steps: int, quick: bool) -> dict:
    """Run the study on so many workers: processes, or threads for a quick look."""
    from distributed import Client, LocalCluster

    from transferlab.lab import Lab

    with tempfile.TemporaryDirectory() as folder:
        quiet = {"dashboard_address": None, "silence_logs": 50, "local_directory": folder, "memory_limit": None}
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, processes=not quick, **quiet) as cluster,
            Client(cluster) as client,
        ):
            client.run(_import)
            began = time.perf_counter()
            found = Lab(Path(folder) / "store", client=client, quiet=True, device="cpu").run(
                trials(runs, steps, "float32")
            )
            seconds = time.perf_counter() - began
    return {"who": f"{workers} workers", "seconds": seconds, "accuracy": float(found["accuracy"].mean())}


def _import() -> None:
    import transferlab.run.work  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu",), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of four short runs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rounds, runs, steps = (1, 4, 2) if given.quick else (given.rounds, 8, 60)
    kept = []
    for number in range(rounds):
        for workers in (1, 2):
            kept.append(timed(workers, runs, steps, given.quick))
            print(f"round {number + 1}/{rounds}: {kept[-1]['who']} {kept[-1]['seconds']:.1f} s", flush=True)
    faster = ratio((r["seconds"] for r in kept[::2]), (r["seconds"] for r in kept[1::2]))
    rows = [{"what": "two Dask workers of one thread against one", "value": faster, "unit": "times", "target": "1.6"}]
    write(
        "cluster",
        rows,
        {"rounds": rounds, "runs_each": runs, "steps": steps, **machine()},
        kept,
        given.out,
        given.quick,
    )


if __name__ == "__main__":
    main()
