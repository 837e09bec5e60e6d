"""How fast a probe is chosen among 8 penalties, against scikit-learn's searches, in one interleaved run.

    python benchmarks/probe.py                  # about five minutes on two quiet cores
    python benchmarks/probe.py --device cuda    # our side on the GPU
    python benchmarks/probe.py --quick --device cpu

The features are FC7 (256 units, standardised) of the chapters' network, trained for a few hundred steps on the
synthetic source; the task is 50 classes of the synthetic target, others in each round, 2,000 training and 1,500 test
images. Everybody tries 8 penalties, each from half a decade to the next around what suits it, on the same third of the
training images, held out by class, and fits the best one to all of them: this is timed. Peers: `GridSearchCV` over
``LinearSVC`` and ``LogisticRegression``, a process with one thread on each core, warm. Ours are one process with its
best number of threads, one or as many as cores (tried first). Each run is a process of its own; rounds go ours,
theirs, ours ... so that a machine that slows down slows down for all.

Expected: ridge at least 100 times LinearSVC and 20 times LogisticRegression, softmax at least 3 times
LogisticRegression, the best squared hinge within 0.2 points of the best LinearSVC.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from common import ask, machine, ratio, write

from transferlab.cores import cpu_workers

ROUNDS, STEPS, SIZE, CLASSES, THIRD = 5, 300, 32, 50, 3
EXPONENTS = {  # of ten: our own strengths, and C
    "ridge": [0.5 - i / 2 for i in range(8)],
    "logistic": [-3 + i / 2 for i in range(8)],
    "squared-hinge": [-4.5 + i / 2 for i in range(8)],
}
PEERS = {"LinearSVC": "squared-hinge", "LogisticRegression": "logistic"}
TARGETS = {
    ("ridge", "LinearSVC"): "100",
    ("ridge", "LogisticRegression"): "20",
    ("logistic", "LogisticRegression"): "3",
}


def make(folder: Path, rounds: int, steps: int) -> None:
    """Train the network, and write features and labels of each round's classes."""
    import torch
    from safetensors.torch import save_file

    from transferlab import scales
    from transferlab.data.images import source_sample, target_sample
    from transferlab.nets.build import build
    from transferlab.specs import Recipe, Source, Subset, Target
    from transferlab.train.fit import fit
    from transferlab.train.read import read
    from transferlab.train.run import Run, Stream

    recipe = Recipe(steps=steps, batch=128, lr=0.1)
    net = build(scales.scale("cpu").backbone, SIZE, CLASSES, 0)
    sample = source_sample(Source("synthetic:source", SIZE, recipe, Subset(classes=CLASSES)), 0)
    fit(Run(net, (Stream(sample, 0),), recipe, 0))
    for seed in range(rounds):
        part = [
            target_sample(Target("synthetic:0", SIZE, Subset(classes=CLASSES)), s, seed)
            for s in ("train", "validation", "test")
        ]
        x, *others = [read(net, sample, ["fc7"])["fc7"] for sample in part]
        mean, std = x.mean(0), x.std(0)
        std[std < 1e-6] = 1
        found = {"x": (x - mean) / std, "labels": part[0].labels, "test": (torch.cat(others) - mean) / std}
        save_file(
            found | {"answers": torch.cat([sample.labels for sample in part[1:]])}, folder / f"{seed}.safetensors"
        )


def held_out(labels):
    """Return which images are held out: every third one of each class."""
    import torch

    out = torch.zeros(len(labels), dtype=torch.bool)
    out[labels.argsort(stable=True)[::THIRD]] = True
    return out


def ours(name: str, x, labels, device: str):
    """Return the weights and biases that a solver of ours chooses."""
    from transferlab.train import solvers

    solve = {"ridge": solvers.ridge, "logistic": solvers.logistic, "squared-hinge": solvers.squared_hinge}[name]
    strengths = tuple(10**e for e in EXPONENTS[name])
    x, labels, out = x.to(device), labels.to(device), held_out(labels).to(device)
    if name != "ridge":
        strengths = tuple(1 / (s * int((~out).sum())) for s in strengths)  # features of unit variance: C to strength
    weights, biases = solve(x[~out], labels[~out], CLASSES, strengths)
    right = (x[out].to(weights) @ weights + biases[:, None]).argmax(2) == labels[out]
    best = int(right.double().mean(1).argmax())
    weights, biases = solve(x, labels, CLASSES, (strengths[best],))
    return weights[0].float().cpu(), biases[0].float().cpu(), best


def theirs(name: str, x, labels, jobs: int):
    """Return the weights and biases that scikit-learn chooses."""
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import LinearSVC

    out = held_out(labels).numpy()
    parts = [(np.flatnonzero(~out), np.flatnonzero(out))]
    grid = {"C": [10**e for e in EXPONENTS[PEERS[name]]]}
    model = {"LinearSVC": LinearSVC, "LogisticRegression": LogisticRegression}[name]()
    search = GridSearchCV(model, grid, cv=parts, n_jobs=jobs).fit(x.numpy(), labels.numpy())
    chosen = search.best_estimator_
    return torch.from_numpy(chosen.coef_.T).float(), torch.from_numpy(chosen.intercept_).float(), search.best_index_


def contest(who: str, path: Path, device: str, jobs: int, quick: bool) -> dict:
    """Run one contestant in this process."""
    if who in PEERS:  # each of its processes computes with one thread: more of them only wait for each other
        os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    os.environ["PYTHONWARNINGS"] = "ignore"  # scikit-learn says where it has not converged
    import warnings

    import torch
    from safetensors.torch import load_file

    warnings.simplefilter("ignore")
    if who not in PEERS:
        torch.set_num_threads(jobs)
    data = load_file(path)
    keep = slice(None, None, 32 if quick else 1)
    x, labels = data["x"][keep].contiguous(), data["labels"][keep].contiguous()

    def run(x, labels):
        weights, biases, best = theirs(who, x, labels, jobs) if who in PEERS else ours(who, x, labels, device)
        return weights, biases, int(best)

    if not quick:
        run(x[:: len(x) // 200], labels[:: len(x) // 200])  # warm up: processes, libraries
    began = time.perf_counter()
    weights, biases, best = run(x, labels)
    seconds = time.perf_counter() - began
    right = (data["test"] @ weights + biases).argmax(1) == data["answers"]
    return {"who": who, "seconds": seconds, "accuracy": right.double().mean().item(), "chosen": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cores", type=int, default=cpu_workers(1), help="for both sides; by default all")
    parser.add_argument("--quick", action="store_true", help="one round of a part of the images")
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes; by default below benchmarks/results (not when quick)"
    )
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=("whole", "part"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        print(json.dumps(contest(given.contestant, given.path, given.device, given.jobs, given.size == "part")))
        return
    rounds, runs = 1 if given.quick else given.rounds, []
    same = {"device": given.device, "size": "part" if given.quick else "whole"}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), rounds, 20 if given.quick else STEPS)
        jobs = dict.fromkeys((*EXPONENTS, *PEERS), 1 if given.quick else given.cores)
        for who in () if given.quick else EXPONENTS:
            counts, path = sorted({1, given.cores}), Path(folder) / "0.safetensors"
            tries = {n: ask(__file__, contestant=who, path=path, jobs=n, **same)["seconds"] for n in counts}
            jobs[who] = min(tries, key=tries.get)
        for seed in range(rounds):
            for who in (*EXPONENTS, *PEERS):
                path = Path(folder) / f"{seed}.safetensors"
                runs.append(ask(__file__, contestant=who, path=path, jobs=jobs[who], **same) | {"seed": seed})
                last = runs[-1]
                reached = f"accuracy {100 * last['accuracy']:.1f}%, choice {last['chosen'] + 1} of 8"
                measured = f"{last['seconds']:8.3f} s, {reached}"
                print(f"round {seed + 1}/{rounds}: {who:20} {measured}", flush=True)
    of = {who: [r for r in runs if r["who"] == who] for who in (*EXPONENTS, *PEERS)}
    ahead = {
        pair: 100 * statistics.mean(a["accuracy"] - b["accuracy"] for a, b in zip(*map(of.get, pair), strict=True))
        for pair in pairs()
    }
    rows = []
    for pair in pairs():
        faster = ratio(*([r["seconds"] for r in of[who]] for who in reversed(pair)))
        what = f"{pair[0]} probe, 8 penalties, against {pair[1]}, accuracy {ahead[pair]:+.1f} points"
        rows.append(
            {"what": what, "value": faster, "unit": "times"} | ({"target": TARGETS[pair]} if pair in TARGETS else {})
        )
    pair = ("squared-hinge", "LinearSVC")
    rows.append(
        {
            "what": "best squared hinge less best LinearSVC",
            "value": ahead[pair],
            "unit": "points",
            "target": "at least -0.2",
        }
    )
    about = {
        "device": given.device,
        "rounds": rounds,
        "steps": STEPS,
        "jobs": jobs,
        **versions(),
        **machine(given.device),
    }
    write(f"probe-{given.device.partition(':')[0]}", rows, about, runs, given.out, given.quick)


def pairs() -> list[tuple[str, str]]:
    """Return who is compared with whom."""
    return [
        ("ridge", "LinearSVC"),
        ("ridge", "LogisticRegression"),
        ("squared-hinge", "LinearSVC"),
        ("logistic", "LogisticRegression"),
    ]


def versions() -> dict[str, str]:
    """Return the version of scikit-learn."""
    import sklearn

    return {"scikit-learn": sklearn.__version__}


if __name__ == "__main__":
    main()
