"""How fast `fit` trains a network that others have tuned to the limit: the CIFAR-10 network of Keller Jordan's
airbench94.

    python benchmarks/airbench.py --device cuda
    python benchmarks/airbench.py --quick --device cpu

Its figures give about 155,000 images a second on one A100, with a loop written for this network alone. Ours is general;
expected is at least a third of that. Images are random: only time is measured here.
"""

import argparse
import statistics
import time
from pathlib import Path

from common import machine, write

THEIRS = 155_000  # images a second
SIZE, CLASSES, BATCH = 32, 10, 1024


def network(widths: tuple[int, ...] = (64, 256, 256)):
    """Return the network: a 2x2 convolution, three groups of two convolutions with pooling, a linear head."""
    from torch import nn

    layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
    before = 24
    for width in widths:
        layers += [
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(width),
            nn.GELU(),
        ]
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        before = width
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(before, CLASSES, bias=False))


def speed(device: str, steps: int, batch: int, precision: str) -> float:
    """Return the images a second of a training run, after one to warm up."""
    import torch

    from transferlab.data.images import Sample
    from transferlab.specs import Recipe
    from transferlab.train.fit import fit
    from transferlab.train.run import Run, Stream

    count = 20 * batch
    pixels = torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8)
    sample = Sample(pixels, torch.arange(count), torch.arange(count) % CLASSES, CLASSES).to(torch.device(device))
    took = 0.0
    for run in (steps // 4 or 1, steps):
        net = network().to(device)
        began = time.perf_counter()
        fit(Run(net, (Stream(sample, 0),), Recipe(steps=run, batch=batch, lr=0.01, precision=precision), 0))
        took = time.perf_counter() - began
    return steps * batch / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="one round of two small steps")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    gpu = given.device.startswith("cuda")
    rounds, steps, batch = (1, 2, 16) if given.quick else (given.rounds, given.steps, BATCH)
    precision = "bf16" if gpu else "float32"
    kept = [{"images_per_second": speed(given.device, steps, batch, precision)} for _ in range(rounds)]
    rate = statistics.median(r["images_per_second"] for r in kept)
    rows = [{"what": "airbench94's network", "value": rate, "unit": "images/s", "target": f"{THEIRS // 3:,}"}]
    about = {"precision": precision, "rounds": rounds, "steps": steps, "batch": batch, **machine(given.device)}
    write("airbench", rows, about, kept, given.out, given.quick)


if __name__ == "__main__":
    main()
