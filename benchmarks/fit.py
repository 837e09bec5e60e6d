"""How fast `fit` trains the network of the chapters, against two peers, in one interleaved run.

    python benchmarks/fit.py                      # float32; about ten minutes on two cores
    python benchmarks/fit.py --precision bf16     # everybody under bf16 autocast
    python benchmarks/fit.py --device cuda --precision bf16
    python benchmarks/fit.py --compiled           # ours against ours through torch.compile, nobody else
    python benchmarks/fit.py --quick --device cpu # a few steps of each, to see that it works

Everybody trains the same AlexNet (10 M multiply-adds at 32 px) on the same images with the same augmentation, rate
schedule, label smoothing and number of steps, and is timed from the decoded images to the last step. Peers:

- ``reference``: the loop of torchvision's reference training script: PIL transforms in a DataLoader with its best
number of
  workers (tried first), ``.item()`` at each step;
- ``lightning``: the same data through a LightningModule and a Trainer, logging at each step.

Both are also run in channels_last layout, which neither does by itself. Each run is a process of its own; rounds go
ours, reference, lightning, ours ... so that a machine that slows down slows down for all. Expected on two cores: at
least 2.5 times the reference and 2 times Lightning in float32, at least 1.5 times both in bf16 where the processor has
it; on a GPU 8 and 4 times. Lightning takes part where it is installed.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from common import ask, machine, ratio, step_by_step, write

ROUNDS, STEPS, BATCH, RATE, SIZE, CLASSES = 5, 160, 128, 0.1, 32, 25
TARGETS = {
    (False, "float32"): {"reference": "2.5", "lightning": "2"},
    (False, "bf16"): {"reference": "1.5", "lightning": "1.5"},
    (True, "float32"): {"reference": "8", "lightning": "4"},
    (True, "bf16"): {"reference": "8", "lightning": "4"},
}
COMPILED = "ours compiled"
STEPWISE = "ours stepwise"  # on a GPU, instead of a step captured once as a CUDA graph and replayed
PEERS = ("reference", "reference channels_last", "lightning", "lightning channels_last")


def images():
    """Return the synthetic source of 25 classes: training and test samples."""
    from transferlab.data.images import source_sample, target_sample
    from transferlab.specs import Recipe, Source, Subset, Target

    part = Subset(classes=CLASSES)
    source = Source("synthetic:source", SIZE, Recipe(steps=1, batch=1, lr=RATE), part)
    return source_sample(source, 0), target_sample(Target("synthetic:source", SIZE, part), "test", 0)


def network(seed: int):
    """Return the network that the chapters train at scale cpu."""
    from transferlab import scales
    from transferlab.nets.build import build

    return build(scales.scale("cpu").backbone, SIZE, CLASSES, seed)


@cache
def compiled_once(device: str):
    """Return a network and itself compiled, which the warm-up and the run share: compiling is not part of the pace."""
    import torch

    net = network(0).to(device).to(memory_format=torch.channels_last)
    return net, torch.compile(net)


def ours(train, seed: int, steps: int, precision: str, device: str, how: str, **_):
    """Train with `fit`."""
    import torch

    from transferlab.specs import Recipe
    from transferlab.train.fit import fit
    from transferlab.train.objectives import CrossEntropy
    from transferlab.train.run import Run, Stream

    compiled = how == "compiled"
    if how == "stepwise":
        step_by_step()
    net = model = network(seed).to(device)
    if compiled:
        net, model = compiled_once(device)
        net.load_state_dict(network(seed).state_dict())

    class Compiled(CrossEntropy):
        def bind(self, net, recipe, forward=None):
            return super().bind(net, recipe, model)

    recipe = Recipe(steps=steps, batch=BATCH, lr=RATE, precision=precision)
    objective = Compiled() if compiled else CrossEntropy()
    fit(Run(net, (Stream(train.to(torch.device(device)), seed),), recipe, seed, objective=objective))
    return net


def loader(train, seed: int, steps: int, workers: int):
    """Return what a user of torchvision writes: arrays become PIL images, are cropped, mirrored, made tensors,
    normalised.
    """
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset, RandomSampler
    from torchvision import transforms as T

    from transferlab.data.augment import CHANNEL_MEAN, STD

    arrays, labels = train.pixels[train.rows].numpy(), train.labels.numpy()
    change = T.Compose(
        [
            T.RandomCrop(SIZE, SIZE // 8, padding_mode="edge"),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(CHANNEL_MEAN, STD),
        ]
    )

    class Images(Dataset):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, i: int):
            return change(Image.fromarray(arrays[i])), int(labels[i])

    order = RandomSampler(Images(), num_samples=steps * BATCH, generator=torch.Generator().manual_seed(seed))
    pin = torch.cuda.is_available()
    return DataLoader(Images(), BATCH, sampler=order, num_workers=workers, drop_last=True, pin_memory=pin)


def sgd(net, steps: int, rate: float = RATE):
    """Return the optimiser and schedule of our recipe in torch's own terms."""
    import torch

    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)

    def factor(step: int) -> float:
        done = (step + 1) / steps
        return done / 0.2 if done < 0.2 else 0.5 * (1 + math.cos(math.pi * (done - 0.2) / 0.8))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def reference(
    train,
    seed: int,
    steps: int,
    precision: str,
    workers: int,
    channels_last: bool,
    rate: float = RATE,
    device: str = "cpu",
    **_,
):
    """Train as torchvision's reference script does: one step after another, loss and accuracy read at each."""
    import torch

    net = network(seed).to(device)
    net = net.to(memory_format=torch.channels_last) if channels_last else net
    optimiser, schedule = sgd(net, steps, rate)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    seen = correct = total = 0.0
    net.train()
    for x, y in loader(train, seed, steps, workers):
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        x = x.to(memory_format=torch.channels_last) if channels_last else x
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            out = net(x)
            loss = criterion(out, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        correct += (out.argmax(1) == y).sum().item()
        total += loss.item() * len(y)
        seen += len(y)
    return net


def lightning(train, seed: int, steps: int, precision: str, workers: int, channels_last: bool, device: str, **_):
    """Train the same through Lightning."""
    import logging
    import warnings

    import lightning as L
    import torch

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(seed)
            self.criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

        def training_step(self, batch, index):
            x, y = batch
            loss = self.criterion(self.net(x.to(memory_format=torch.channels_last) if channels_last else x), y)
            self.log("loss", loss, prog_bar=False)
            return loss

        def configure_optimizers(self):
            optimiser, schedule = sgd(self.net, steps)
            return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    module = Module()
    module.net = module.net.to(memory_format=torch.channels_last) if channels_last else module.net
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(train, seed, steps, workers))
    return module.net


def best_workers(who: str, steps: int, precision: str, counts: list[int], device: str) -> dict:
    """Return the number of loader workers with which a peer is fastest."""
    tries = [contest(who, 0, steps, precision, count, device) for count in counts]
    return max(tries, key=lambda t: t["images_per_second"])


def contest(who: str, seed: int, steps: int, precision: str, workers: int, device: str) -> dict:
    """Run one contestant in this process."""
    import torch

    from transferlab.measure.metrics import scores
    from transferlab.train.read import predict

    train, test = images()
    name, _, how = who.partition(" ")
    run = {"ours": ours, "reference": reference, "lightning": lightning}[name]
    torch.manual_seed(seed)
    given = {"train": train, "precision": precision, "workers": workers, "device": device}
    given |= {"channels_last": how == "channels_last", "how": how}
    with tempfile.TemporaryDirectory() as fresh:  # what another run compiled does not count
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = fresh
        began = time.perf_counter()
        run(seed=seed, steps=3, **given)
        warm = time.perf_counter() - began
    began = time.perf_counter()
    net = run(seed=seed, steps=steps, **given)
    seconds = time.perf_counter() - began
    return {
        "who": who,
        "workers": workers,
        "warm_up": warm,
        "images_per_second": steps * BATCH / seconds,
        "accuracy": scores(predict(net.cpu(), test), test.labels)["accuracy"],
    }


def ceiling(precision: str, device: str, side: int = 2048) -> dict:
    """Return how fast this device multiplies large matrices, in multiply-adds a second: training cannot be faster."""
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(side, side, device=device, dtype=kind)

    def multiply(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            last = a @ a
        last.sum().item()
        return time.perf_counter() - began

    multiply(3)
    return {"who": "ceiling", "multiply_adds": 10 * side**3 / multiply(10)}


def rows_of(runs: list[dict], limits: list[dict], best: dict[str, int], precision: str, gpu: bool) -> list[dict]:
    """Return what the summary shows of the rounds so far.

    Parameters
    ----------
    runs, limits : list of dict
        As `contest` and `ceiling` return them.
    best : dict of str to int
        Workers of every peer's loader.
    """
    from transferlab import scales
    from transferlab.report.stats import effect

    of: dict[str, list[dict]] = {}
    for run in runs:
        of.setdefault(run["who"], []).append(run)
    pace = {who: [r["images_per_second"] for r in each] for who, each in of.items()}
    median, most = statistics.median(pace["ours"]), statistics.median(r["multiply_adds"] for r in limits)
    if COMPILED in of:
        warm = statistics.median(r["warm_up"] for r in of[COMPILED])
        what = f"one run compiled, after {warm:.0f} s of warm-up, against one that is not"
        return [{"what": what, "value": ratio(pace[COMPILED], pace["ours"]), "unit": "times"}]
    arithmetic = 3 * scales.scale("cpu").backbone.multiply_adds(SIZE)  # forward, and twice that backward
    what = f"its arithmetic, of what this device does in products of large matrices ({2e-9 * most:.0f} GFLOP/s)"
    rows = [
        {"what": "one run", "value": median, "unit": "images/s"},
        {"what": what, "value": 100 * median * arithmetic / most, "unit": "%"},
    ]
    if STEPWISE in of:
        gain = ratio(pace["ours"], pace[STEPWISE])
        rows.append(
            {"what": "one run, a step captured and replayed, against step by step", "value": gain, "unit": "times"}
        )
    for peer, workers in best.items():
        pairs = zip(of["ours"], of[peer], strict=True)
        ahead = effect([100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs])
        between = f"accuracy {ahead.mean:+.1f} points" + (
            f" [{ahead.low:+.1f}, {ahead.high:+.1f}]" if ahead.n > 1 else ""
        )
        what = f"one run against {peer} ({workers} loader workers), {between}"
        wanted = TARGETS[gpu, precision].get(peer)
        row = {"what": what, "value": ratio(pace["ours"], pace[peer]), "unit": "times"}
        rows.append(row | ({"target": wanted} if wanted else {}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="ours against ours through torch.compile")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--quick", action="store_true", help="one round of a few steps")
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes; by default below benchmarks/results (not when quick)"
    )
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--loaders", default="0", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant == "ceiling":
        print(json.dumps(ceiling(given.precision, given.device)))
        return
    if given.contestant:
        counts = [int(count) for count in given.loaders.split(",")]
        about = (given.steps, given.precision, counts, given.device)
        one = (given.seed, given.steps, given.precision, counts[0], given.device)
        print(json.dumps(best_workers(given.contestant, *about) if counts[1:] else contest(given.contestant, *one)))
        return
    gpu = given.device.startswith("cuda")
    rounds, steps = (1, 4) if given.quick else (given.rounds, given.steps)
    peers = [p for p in PEERS if find_spec("lightning") or not p.startswith("lightning")]
    peers = [COMPILED] if given.compiled else peers[::2] if given.quick else peers
    variants = [STEPWISE] if (gpu or given.quick) and not given.compiled else []
    same = {"precision": given.precision, "device": given.device}
    best = dict.fromkeys(peers, 0)
    if (
        not given.quick and not given.compiled
    ):  # the best number of workers, tried on a third of the steps; no loader knows the layout
        counts, few = "0,4,8,16" if gpu else "0,1,2", max(4, steps // 3)
        plain = dict.fromkeys(peer.partition(" ")[0] for peer in peers)
        tried = {name: ask(__file__, contestant=name, steps=few, loaders=counts, **same)["workers"] for name in plain}
        best = {peer: tried[peer.partition(" ")[0]] for peer in peers}
    name = f"fit-{given.device.partition(':')[0]}-{given.precision}" + "-compiled" * given.compiled
    runs, limits = [], []
    for seed in range(rounds):
        limits.append(ask(__file__, contestant="ceiling", **same))
        for who in ("ours", *variants, *peers):
            runs.append(
                ask(__file__, contestant=who, seed=seed, steps=steps, loaders=best.get(who, 0), **same) | {"seed": seed}
            )
            measured = f"{runs[-1]['images_per_second']:7.0f} images/s, accuracy {100 * runs[-1]['accuracy']:.1f}%"
            print(f"round {seed + 1}/{rounds}: {who:24} {measured}", flush=True)
        about = {**same, "rounds": seed + 1, "steps": steps, "batch": BATCH, **machine(given.device)}
        write(
            name,
            rows_of(runs, limits, best, given.precision, gpu),
            about,
            limits + runs,
            given.out,
            given.quick,
            last=seed + 1 == rounds,
        )


if __name__ == "__main__":
    main()
