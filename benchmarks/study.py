"""How fast a study goes: many runs through `Lab.run`, against the same runs one after another.

    python benchmarks/study.py                    # CPU: 16 runs against torchvision's reference loop, run after run
    python benchmarks/study.py --device cuda      # GPU: 64 runs trained together against our own loop, one at a time
    python benchmarks/study.py --quick --device cpu

All runs train the chapters' AlexNet on the synthetic source (25 classes), four learning rates and as many seeds as it
takes. Each side is a process of its own, timed from the decoded images to the last accuracy; ours includes the start of
its workers. Expected: at least 3 times the reference loop on two cores; on a GPU at least 4 times one at a time, and
the GPU busy at least 90% of the time.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from common import ask, machine, ratio, step_by_step, write
from fit import BATCH, CLASSES, SIZE, network, reference

RATES = (0.02, 0.05, 0.1, 0.2)
STEPWISE = "one at a time, step by step"  # without CUDA graphs; a quarter of the runs


def trials(runs: int, steps: int, precision: str) -> list:
    """Return the study: so many runs from scratch."""
    from transferlab import scales
    from transferlab.methods import Scratch
    from transferlab.specs import Recipe, Subset, Target, Trial

    target, backbone = Target("synthetic:source", SIZE, Subset(classes=CLASSES)), scales.scale("cpu").backbone
    recipes = [Recipe(steps=steps, batch=BATCH, lr=rate, precision=precision) for rate in RATES]
    return [Trial(target, Scratch(recipes[i % len(RATES)]), backbone, i // len(RATES)) for i in range(runs)]


class Watch:
    """Reads the GPU's utilisation twice a second, from the driver."""

    def __enter__(self) -> "Watch":
        self.busy: list[float] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def _look(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.over.wait(0.5):
            try:
                self.busy.append(
                    float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0])
                )
            except (OSError, ValueError, subprocess.CalledProcessError):
                return

    def __exit__(self, *exc: object) -> None:
        self.over.set()
        self.thread.join()


def contest(who: str, runs: int, steps: int, precision: str, device: str, loaders: int) -> dict:
    """Do the study one way."""
    import torch

    from transferlab.data.images import target_sample
    from transferlab.lab import Lab
    from transferlab.measure.metrics import scores
    from transferlab.train.read import predict

    asked = trials(runs // 4 if who == STEPWISE else runs, steps, precision)
    if who == STEPWISE:
        step_by_step()
    parts = {t.seed: [target_sample(t.target, split, t.seed) for split in ("train", "test")] for t in asked}
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        began = time.perf_counter()
        if who == "reference":
            found = []
            for t in asked:
                train, test = parts[t.seed]
                torch.manual_seed(t.seed)
                net = reference(train, t.seed, steps, precision, loaders, False, t.recipe.lr)
                found.append(scores(predict(net, test), test.labels)["accuracy"])
        else:
            pack = {
                "lab": None,
                "one at a time": 1,
                STEPWISE: 1,
                "together": min(runs, 8) if device == "cpu" else None,
            }[who]
            found = Lab(folder, device=device, pack=pack, quiet=True).run(asked)["accuracy"]
        seconds = time.perf_counter() - began
    about = {"who": who, "seconds": seconds, "accuracies": [round(float(a), 5) for a in found]}
    if device.startswith("cuda"):
        about |= {"busy": statistics.mean(watch.busy or [0.0]), "gib": torch.cuda.max_memory_allocated() / 2**30}
    return about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="one round of four short runs")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--loaders", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    from transferlab.report.stats import effect

    gpu = given.device.startswith("cuda")
    runs = 4 if given.quick else given.runs or (64 if gpu else 16)
    rounds, steps = (1, 3) if given.quick else (given.rounds, given.steps)
    precision = given.precision or ("bf16" if gpu else "float32")
    if given.contestant:
        print(json.dumps(contest(given.contestant, given.runs, given.steps, precision, given.device, given.loaders)))
        return
    network(0)
    ours, theirs = ("together", "one at a time") if gpu else ("lab", "reference")
    kept = []
    for number in range(rounds):
        for who in (ours, theirs, *((STEPWISE,) if gpu else ("together", STEPWISE) if given.quick else ())):
            options = {"contestant": who, "runs": runs, "steps": steps, "precision": precision, "device": given.device}
            kept.append(ask(__file__, **options))
            reached = 100 * statistics.mean(kept[-1]["accuracies"])
            print(
                f"round {number + 1}/{rounds}: {who} {kept[-1]['seconds']:.1f} s, accuracy {reached:.1f}%", flush=True
            )
    of = {who: [r for r in kept if r["who"] == who] for who in (ours, theirs, STEPWISE)}
    faster = ratio((r["seconds"] for r in of[theirs]), (r["seconds"] for r in of[ours]))
    seeds, rates = range(-(-runs // len(RATES))), len(RATES)
    runs_of = {
        who: [100 * statistics.mean(r["accuracies"][i] for r in of[who]) for i in range(runs)] for who in (ours, theirs)
    }
    by_seed = {who: [statistics.mean(a[s * rates : (s + 1) * rates]) for s in seeds] for who, a in runs_of.items()}
    ahead = effect([a - b for a, b in zip(by_seed[ours], by_seed[theirs], strict=True)])
    between = f" [{ahead.low:+.1f}, {ahead.high:+.1f}] over {ahead.n} seeds" if ahead.n > 1 else ""
    peer = "our own loop, one at a time" if gpu else "torchvision's reference loop, run after run"
    rows = [
        {
            "what": f"a study of {runs} runs against {peer}",
            "value": faster,
            "unit": "times",
            "target": "4" if gpu else "3",
        },
        {"what": f"its accuracy, ahead{between}", "value": ahead.mean, "unit": "points", "target": "within 0.5"},
    ]
    if gpu:
        each = ratio(*([r["seconds"] / len(r["accuracies"]) for r in of[who]] for who in (STEPWISE, ours)))
        rows.insert(
            1,
            {"what": "the same, against that loop without CUDA graphs", "value": each, "unit": "times", "target": "4"},
        )
        rows.append(
            {"what": "GPU busy", "value": statistics.mean(r["busy"] for r in of[ours]), "unit": "%", "target": "90"}
        )
        rows.append({"what": "GPU memory", "value": max(r["gib"] for r in of[ours]), "unit": "GiB"})
    about = {"precision": precision, "rounds": rounds, "steps": steps, "batch": BATCH, **machine(given.device)}
    write(f"study-{given.device.partition(':')[0]}", rows, about, kept, given.out, given.quick)


if __name__ == "__main__":
    main()
