"""How fast the source images most like a target's are found: exact symmetric KL, against NumPy and faiss.

    python benchmarks/neighbours.py                  # about 15 minutes on two cores; 5 GB of disk, 5 GB of memory
    python benchmarks/neighbours.py --device cuda    # our side on the GPU
    python benchmarks/neighbours.py --quick --device cpu

20,000 images of the synthetic source and 1,000 of a synthetic target at 32 px, described by the 352 channels of
AlexNet's first two convolutions in 100 bins each: 35,200 numbers an image, kept as integers. Everybody looks for the
300 nearest. NumPy computes the formula pair by pair, a part of it, and its time is taken times the parts. faiss
(``IndexFlatIP``, float32) is given what makes the divergence an inner product, [log q, q, sum q log q] by [p, log p,
-1], a quarter of the pool at a time for want of memory; that this has to be computed is not counted against it. Each
contestant is a process of its own, with all cores; ours and faiss take turns.

Recall is against float64, for some of the target images: the share of the 300 that are no farther than the true 300th
plus 1e-5. Memory is what the process takes beyond the counts, at its peak.

Expected: recall 1, at most 4 GB, at least 10 times NumPy, no slower than faiss.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from common import ask, machine, ratio, write

from transferlab.cores import cpu_workers

ROUNDS, SIZE, CHANNELS, NEAREST = 2, 32, (96, 256, 8, 8, 8), 300
PAPER = 1_281_167, 5_360  # images of ImageNet, and of MIT-67's training split
SHARDS, CHECKED, PARTS = 4, 2, (10, 1000)


def make(folder: Path, pool: int, target: int, device: str) -> float:
    """Write the descriptors of both sets, and return how many images a second were described."""
    import torch
    from safetensors.torch import save_file

    from transferlab.data.images import Sample, load
    from transferlab.nets.build import build
    from transferlab.select.descriptors import FirstTwo, Histograms
    from transferlab.specs import AlexNet, FirstConvolutions, ImageSet, Pretrained, Recipe, Source

    backbone = AlexNet(CHANNELS, (8, 8))
    selection = FirstConvolutions(Pretrained(Source("synthetic:source", SIZE, Recipe(1, 1, 0.1)), backbone, 0))
    samples = {}
    for name, images, count in (("target", "synthetic:0.5", target), ("pool", "synthetic:source", pool)):
        pixels = load(ImageSet(images), SIZE).splits["train"].pixels
        rows = torch.linspace(0, len(pixels) - 1, count).long()
        samples[name] = Sample(pixels, rows, rows, 1)
    how = Histograms.fitted(selection, FirstTwo(build(backbone, SIZE, 2, 0).to(device), False), samples["target"])
    found = {"target": torch.cat(list(how.of(samples["target"]))).cpu()}
    began = time.perf_counter()
    found["pool"] = torch.empty(pool, found["target"].shape[1], dtype=found["target"].dtype)
    at = 0
    for counts in how.of(samples["pool"]):
        found["pool"][at : at + len(counts)] = counts
        at += len(counts)
    seconds = time.perf_counter() - began
    save_file(found | {"shares": how.shares, "weights": how.weights}, folder / "counts.safetensors")
    return pool / seconds


def clock():
    """Return the time: on the wall, and what the cores have worked for this process."""
    import numpy as np

    return np.array([time.perf_counter(), time.process_time()])


def memory(what: str) -> float:
    """Return the memory of this process in GB: ``VmRSS``, what it takes, or ``VmHWM``, the most that it took."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1e6


def ours(data: dict, k: int, device: str) -> tuple:
    """Return the seconds that a search takes, and the rows that it finds."""
    import torch

    from transferlab.select.search import NearestByDivergence

    began = clock()
    found = NearestByDivergence(data["target"].to(device), k, data["shares"], data["weights"])
    found.add(data["pool"], torch.arange(len(data["pool"])))
    result = {name: value.cpu() for name, value in found.result().items()}
    return clock() - began, result["indices"].long()


def with_faiss(data: dict, k: int, cores: int) -> tuple:
    """Return the seconds that faiss searches, and the rows that it finds."""
    import faiss
    import torch

    from transferlab.select.search import LOG_EPSILON

    faiss.omp_set_num_threads(cores)
    weights = data["weights"] / 2

    def parts(counts: torch.Tensor) -> tuple:
        p = counts * data["shares"]
        return p, (p + LOG_EPSILON).log()

    p, logs = parts(data["target"])
    query = torch.cat([p * weights, logs * weights, -torch.ones(len(p), 1)], 1).numpy()
    spent, scores, rows, first = 0, [], [], 0
    for piece in data["pool"].chunk(SHARDS):
        q, logs = parts(piece)
        own = (q * logs) @ weights
        vectors = torch.cat([logs, q, own[:, None]], 1)
        del q, logs
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors.numpy())
        del vectors
        began = clock()
        score, row = index.search(query, min(k, len(piece)))
        spent += clock() - began
        scores.append(torch.from_numpy(score))
        rows.append(torch.from_numpy(row) + first)
        first += len(piece)
    best = torch.cat(scores, 1).topk(k).indices
    return spent, torch.cat(rows, 1).gather(1, best)


def with_numpy(data: dict) -> tuple:
    """Return the seconds that the formula takes for all pairs, from some of them."""
    import numpy as np

    from transferlab.select.search import LOG_EPSILON

    targets, count = PARTS
    some = [(data[name][:n] * data["shares"]).numpy() for name, n in (("target", targets), ("pool", count))]
    weights = data["weights"].numpy() / 2
    began = clock()
    for p in some[0]:
        terms = (p - some[1]) * (np.log((p + LOG_EPSILON) / (some[1] + LOG_EPSILON)))
        (terms * weights).sum(1).argsort()
    spent = clock() - began
    whole = len(data["target"]) * len(data["pool"])
    return spent * whole / (len(some[0]) * len(some[1])), None


def recall(data: dict, rows, k: int) -> float:
    """Return the share of the nearest that were found, but for ties."""
    import torch

    from transferlab.select.search import pairs

    shares = []
    for t in torch.linspace(0, len(data["target"]) - 1, CHECKED).long().tolist():
        parts = [pairs(data["target"][t : t + 1], q, data["shares"], data["weights"]) for q in data["pool"].split(100)]
        distances = torch.cat(parts)
        limit = distances.kthvalue(k).values + 1e-5
        shares.append((distances[rows[t].unique()] <= limit).sum().item() / k)
    return sum(shares) / len(shares)


def contest(who: str, path: Path, k: int, device: str, cores: int) -> dict:
    """Run one contestant in this process."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(cores)
    data = load_file(path)
    data["pool"].max(), data["target"].max()  # they are mapped: now they are here
    before = memory("VmRSS")
    if who == "numpy":
        spent, rows = with_numpy(data)
    elif who == "faiss":
        spent, rows = with_faiss(data, k, cores)
    else:
        spent, rows = ours(data, k, device)
    found = {"who": who, "seconds": spent[0], "core_seconds": spent[1], "memory": memory("VmHWM") - before}
    if device.startswith("cuda"):
        found["device_memory"] = torch.cuda.max_memory_allocated() / 1e9
    return found | ({} if rows is None else {"recall": recall(data, rows, k)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--target", type=int, default=1_000)
    parser.add_argument("--quick", action="store_true", help="one round of 200 by 20 images")
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes; by default below benchmarks/results (not when quick)"
    )
    parser.add_argument("--contestants", default="ours,faiss", help="who takes turns")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nearest", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=cpu_workers(1))
    given = parser.parse_args()
    if given.contestant:
        print(json.dumps(contest(given.contestant, given.path, given.nearest, given.device, given.cores)))
        return
    pool, target, rounds = (200, 20, 1) if given.quick else (given.pool, given.target, given.rounds)
    k, runs = min(NEAREST, pool // 4), []
    with tempfile.TemporaryDirectory() as folder:
        described = make(Path(folder), pool, target, given.device)
        print(f"described {described:.0f} images a second", flush=True)
        same = {"path": Path(folder) / "counts.safetensors", "nearest": k, "device": given.device, "cores": given.cores}
        for number in range(rounds):
            for who in (*given.contestants.split(","), "numpy"):
                runs.append(ask(__file__, contestant=who, **same) | {"round": number})
                print(f"round {number + 1}/{rounds}: {runs[-1]}", flush=True)
    of = {who: [r for r in runs if r["who"] == who] for who in dict.fromkeys(r["who"] for r in runs)}
    seconds = {who: [r["seconds"] for r in found] for who, found in of.items()}
    whole = PAPER[0] * PAPER[1] / (pool * target) * min(seconds["ours"])
    size = f"the {k} nearest of {pool:,} images to each of {target:,}, {sum(CHANNELS[:2]) * 100:,} bins"
    rows = [
        {"what": size, "value": min(seconds["ours"]), "unit": "s"},
        {
            "what": "its recall, but for ties within 1e-5",
            "value": min(r["recall"] for r in of["ours"]),
            "unit": "",
            "target": "1",
        },
        {
            "what": "its memory beyond the descriptors",
            "value": max(r.get("device_memory", r["memory"]) for r in of["ours"]),
            "unit": "GB",
            "target": "at most 4",
        },
        {
            "what": "against NumPy, pair by pair, extrapolated from a part",
            "value": ratio(seconds["numpy"], seconds["ours"]),
            "unit": "times",
            "target": "10",
        },
    ]
    if "faiss" in of:
        faster = ratio(seconds["faiss"], seconds["ours"])
        rows.append({"what": "against faiss `IndexFlatIP`", "value": faster, "unit": "times", "target": "1"})
        work = ratio(*([r["core_seconds"] for r in of[who]] for who in ("faiss", "ours")))
        rows.append({"what": "the same, by what the cores worked", "value": work, "unit": "times"})
    rows += [
        {"what": f"descriptors at {SIZE} px", "value": described, "unit": "images/s"},
        {"what": f"the same search for {PAPER[0]:,} by {PAPER[1]:,}, extrapolated", "value": whole / 3600, "unit": "h"},
    ]
    about = {"device": given.device, "rounds": rounds, **machine(given.device)}
    write(f"neighbours-{given.device.partition(':')[0]}", rows, about, runs, given.out, given.quick)


if __name__ == "__main__":
    main()
