"""How fast every layer of a network is probed, against one pass a layer and scikit-learn's LinearSVC.

    python benchmarks/layers.py                  # about ten minutes on two quiet cores
    python benchmarks/layers.py --device cuda    # our side on the GPU
    python benchmarks/layers.py --quick --device cpu

The network is that of the chapters, trained for a few hundred steps on 100 classes of the synthetic source; 10,000 of
its images are read at every layer, 8 penalties are tried in each of 3 folds, and the accuracy of the best one is kept.
Ours reads all layers in one pass and solves for all penalties at once, by ridge regression and by the squared hinge
loss, which is LinearSVC's. The peer reads each layer by a pass of its own and fits each penalty alone, features
standardised, a process with one thread on each core; for want of time its first layer, FC6 and FC7 are measured in one
fold, and their time is taken times the folds, and times what all layers have to these three. Each contestant is a
process of its own; rounds take turns.

Expected: at least 20 times, at an accuracy that is at most a point lower.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from common import ask, machine, ratio, write

from transferlab.cores import cpu_workers

ROUNDS, STEPS, SIZE, CLASSES, FOLDS = 2, 300, 32, 100, 3
WHO, PEER, THEIRS = ("ridge", "squared-hinge"), "LinearSVC", ("conv1", "fc6", "fc7")
EXPONENTS = {"ridge": [0.5 - i / 2 for i in range(8)]} | {
    who: [-4.5 + i / 2 for i in range(8)] for who in (WHO[1], PEER)
}


def world(steps: int, quick: bool):
    """Return a trained network and the images that it reads."""
    from transferlab import scales
    from transferlab.data.images import source_sample
    from transferlab.nets.build import build
    from transferlab.specs import Recipe, Source, Subset
    from transferlab.train.fit import fit
    from transferlab.train.run import Run, Stream

    recipe, classes = Recipe(steps=steps, batch=128, lr=0.1), 4 if quick else CLASSES
    net = build(scales.scale("cpu").backbone, SIZE, classes, 0)
    sample = source_sample(Source("synthetic:source", SIZE, recipe, Subset(classes=classes)), 0)
    fit(Run(net, (Stream(sample, 0),), recipe, 0))
    return net, sample


def ours(name: str, net, sample, device: str) -> dict[str, float]:
    """Return the best accuracy at each layer."""
    import torch

    from transferlab.nets.taps import taps
    from transferlab.train import solvers
    from transferlab.train.read import read

    solve = {"ridge": solvers.ridge, "squared-hinge": solvers.squared_hinge}[name]
    labels, fold = sample.labels, torch.arange(len(sample.labels)) % FOLDS
    found = {}
    for tap, x in read(net, sample, [t for t in taps(net) if t != "softmax"]).items():
        right = torch.zeros(8, dtype=torch.float64)
        for out in (fold == i for i in range(FOLDS)):
            out = out.to(x.device)
            strengths = tuple(10**e for e in EXPONENTS[name])
            if name != "ridge":  # of features of unit variance: C to strength
                strengths = tuple(1 / (s * int((~out).sum())) for s in strengths)
            z = x / x[~out].std(0).clamp_min(1e-6)
            weights, biases = solve(z[~out], labels[~out], sample.classes, strengths)
            said = (z[out].to(weights) @ weights + biases[:, None]).argmax(2)
            right += (said == labels[out]).double().mean(1).cpu() / FOLDS
        found[tap] = right.max().item()
    return found


def theirs(net, sample, jobs: int) -> tuple[dict[str, float], float]:
    """Return the best accuracy in one fold at some layers, and by how much the time has to be multiplied for all."""
    import numpy as np
    from joblib import Parallel, delayed
    from sklearn.svm import LinearSVC

    from transferlab.nets.taps import taps
    from transferlab.train.read import read

    labels = sample.labels.numpy()
    out, found = np.arange(len(labels)) % FOLDS == 0, {}

    def fitted(x, c: float) -> float:
        return LinearSVC(C=c).fit(x[~out], labels[~out]).score(x[out], labels[out])

    for tap in THEIRS:
        x = read(net, sample, [tap])[tap].numpy()
        x = (x - x[~out].mean(0)) / np.maximum(x[~out].std(0), 1e-6)
        found[tap] = max(Parallel(jobs)(delayed(fitted)(x, 10**e) for e in EXPONENTS[PEER]))
    layers = len(taps(net)) - 1
    return found, FOLDS * layers / len(THEIRS)


def contest(who: str, device: str, jobs: int, quick: bool) -> dict:
    """Run one contestant in this process."""
    if who == PEER:  # each of its processes computes with one thread: more of them only wait for each other
        os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    os.environ["PYTHONWARNINGS"] = "ignore"  # scikit-learn says where it has not converged
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(jobs)
    net, sample = world(5 if quick else STEPS, quick)
    if who != PEER:
        net, sample = net.to(device), sample.to(torch.device(device))
    began, times = time.perf_counter(), 1.0
    if who == PEER:
        accuracy, times = theirs(net, sample, jobs)
    else:
        accuracy = ours(who, net, sample, device)
    return {"who": who, "seconds": times * (time.perf_counter() - began), "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--cores", type=int, default=cpu_workers(1), help="for both sides; by default all")
    parser.add_argument("--quick", action="store_true", help="one round of a few images")
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes; by default below benchmarks/results (not when quick)"
    )
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=("whole", "part"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        print(json.dumps(contest(given.contestant, given.device, given.cores, given.size == "part")))
        return
    rounds, runs = 1 if given.quick else given.rounds, []
    same = {"device": given.device, "size": "part" if given.quick else "whole", "cores": given.cores}
    for turn in range(rounds):
        for who in (*WHO, PEER):
            runs.append(ask(__file__, contestant=who, **same) | {"round": turn})
            reached = ", ".join(f"{tap} {100 * runs[-1]['accuracy'][tap]:.1f}%" for tap in THEIRS)
            print(f"round {turn + 1}/{rounds}: {who:14} {runs[-1]['seconds']:8.1f} s, {reached}", flush=True)
    of = {who: [r for r in runs if r["who"] == who] for who in (*WHO, PEER)}
    rows = []
    for who in WHO:
        faster = ratio(*([r["seconds"] for r in of[name]] for name in (PEER, who)))
        ahead = [
            100 * (a["accuracy"][t] - b["accuracy"][t]) for a, b in zip(of[who], of[PEER], strict=True) for t in THEIRS
        ]
        extrapolated = f"{PEER} (three layers of one fold, extrapolated), accuracy {statistics.mean(ahead):+.1f} points"
        what = f"every layer probed ({who}), 8 penalties in 3 folds, against {extrapolated}"
        rows.append({"what": what, "value": faster, "unit": "times", "target": "20"})
    write("layers", rows, machine(given.device) | {"rounds": rounds}, runs, given.out, given.quick)


if __name__ == "__main__":
    main()
