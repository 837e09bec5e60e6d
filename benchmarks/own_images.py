"""How good a network is after some minutes on one's own images, against the usual recipes given the same minutes.

    python benchmarks/own_images.py                       # three sets, eight seeds, ten minutes each: days
    python benchmarks/own_images.py --minutes 3 --seeds 2 --sets scene15
    python benchmarks/own_images.py --quick --device cpu

Sets are folders of class folders, made from the packs in TRANSFERLAB_DATA: at most 20 training images of each of 15
classes, which every seed draws anew, and all test images of these. Everybody starts from the same weights at the same
size. Ours is ``FineTuner(minutes=...)``, which gives up a fifth of the training images for its own choices. Theirs
trains on all of them:

- torchvision: the classification reference, with a new head: SGD with momentum 0.9, rate 0.1 for 256 images scaled to
  the batch of 32, cosine to zero, weight decay 1e-4, random resized crops and mirror images, as many epochs as the
  minutes allow, measured on a few steps; and the same at a tenth of that rate, which is usual for fine-tuning.
- fastai, if it can be imported: ``vision_learner(...).fine_tune(...)``.

Rounds go ours, theirs, ours ...; each run is a process of its own. What is printed is the difference of test accuracy,
ours less theirs, paired by set and seed, with its 95% interval (paired t).

Expected: an interval above -1 point, and a mean above 0.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

from common import ask, machine, write

SETS = ("caltech101", "scene15", "flowers102")
CLASSES, PER_CLASS, SEEDS, MINUTES, BATCH = 15, 20, 8, 10.0, 32
RATES = {"torchvision": 0.1 * BATCH / 256, "torchvision at a tenth of the rate": 0.01 * BATCH / 256}


def make(name: str, folder: Path, seed: int, quick: bool) -> None:
    """Write a set's images into class folders."""
    from transferlab.data.readers import open_set
    from transferlab.data.subsets import rank

    if quick:
        from PIL import Image

        for split, count in (("train", 6), ("test", 2)):
            for label in range(2):
                for number in range(count):
                    path = folder / split / f"class {label}" / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.effect_noise((32, 32), 20 + 60 * label).save(path)
        return
    opened = open_set(name)
    for split in ("train", "test"):
        for label, title in enumerate(opened.classes[:CLASSES]):
            items = [i for i in opened.splits[split] if i.label == label]
            items = sorted(items, key=lambda i: rank(seed, "own images", i.path))
            for number, item in enumerate(items[: PER_CLASS if split == "train" else None]):
                path = folder / split / title.replace("/", " ") / f"{number:03d}{Path(item.path).suffix or '.webp'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(item.content())


def ours(folder: Path, given: argparse.Namespace) -> float:
    """Return what three lines of ours reach."""
    from transferlab import FineTuner

    short = {"steps": 2, "rates": 1} if given.quick else {}
    tuner = FineTuner(minutes=given.minutes, weights=given.weights, size=given.px, seed=given.seed, **short)
    return tuner.set_params(device=given.device).fit(folder).metrics_["accuracy"]


def reference(folder: Path, given: argparse.Namespace, lr: float) -> float:
    """Return what torchvision's recipe reaches: as many epochs as the time allows."""
    import torch
    import torchvision
    from torch.nn import functional as F
    from torchvision.transforms import v2

    from transferlab.nets.build import new_head, pretrained
    from transferlab.own.networks import start

    began = time.monotonic()
    torch.manual_seed(given.seed)
    begin = start(None, given.weights, given.px, 0, given.device)
    last = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    train = v2.Compose([v2.RandomResizedCrop(given.px, antialias=True), v2.RandomHorizontalFlip(), *last])
    test = v2.Compose([v2.Resize(given.px, antialias=True), v2.CenterCrop(given.px), *last])
    sets = [torchvision.datasets.ImageFolder(folder / split, how) for split, how in (("train", train), ("test", test))]
    net = pretrained(begin.source, begin.backbone, given.px).to(given.device)
    new_head(net, len(sets[0].classes), given.seed)
    net.to(given.device)
    batches = torch.utils.data.DataLoader(sets[0], BATCH, shuffle=True, drop_last=len(sets[0]) > BATCH)
    optimiser = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    net.train()

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad()
        F.cross_entropy(net(images.to(given.device)), labels.to(given.device)).backward()
        optimiser.step()

    kept = {name: value.clone() for name, value in net.state_dict().items()}
    for group in optimiser.param_groups:  # so that what is timed moves nothing
        group["lr"] = 0.0
    before = time.monotonic()
    for number, batch in enumerate(batches):
        step(*batch)
        if number == 3 or given.quick:
            break
    seconds = (time.monotonic() - before) / (number + 1)
    net.load_state_dict(kept)
    left = given.minutes * 60 - (time.monotonic() - began) - len(sets[1]) / BATCH * seconds
    epochs = 1 if given.quick else max(1, int(left / seconds / len(batches)))
    optimiser = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for batch in batches:
            step(*batch)
        schedule.step()
    net.eval()
    with torch.inference_mode():
        right = [
            (net(images.to(given.device)).argmax(1).cpu() == labels).float()
            for images, labels in torch.utils.data.DataLoader(sets[1], BATCH)
        ]
    return torch.cat(right).mean().item()


def fastai(folder: Path, given: argparse.Namespace) -> float:
    """Return what fastai's own recipe reaches; epochs as the time allows, by one that is timed."""
    from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, set_seed, vision_learner

    from transferlab.nets.build import pretrained
    from transferlab.own.networks import start

    began = time.monotonic()
    set_seed(given.seed)
    begin = start(None, given.weights, given.px, 0, given.device)
    shape = {"item_tfms": Resize(given.px), "batch_tfms": aug_transforms(size=given.px), "bs": BATCH}
    data = ImageDataLoaders.from_folder(folder, train="train", valid="test", num_workers=0, **shape)

    def arch(weights=None):
        return pretrained(begin.source, begin.backbone, given.px)

    def learner():
        return vision_learner(data, arch, pretrained=False, metrics=accuracy)

    before = time.monotonic()
    learner().fit_one_cycle(1)
    seconds = time.monotonic() - before
    learn = learner()
    learn.fine_tune(max(1, int((given.minutes * 60 - (time.monotonic() - began)) / seconds) - 1))
    return float(learn.validate()[1])


def contest(given: argparse.Namespace) -> dict:
    """Run one contestant in this process."""
    began = time.monotonic()
    reached = {"ours": ours, "fastai": fastai}.get(given.contestant)
    if reached:
        accuracy = reached(given.folder, given)
    else:
        accuracy = reference(given.folder, given, RATES[given.contestant])
    return {"who": given.contestant, "accuracy": accuracy, "seconds": time.monotonic() - began}


def interval(differences: list[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95% interval, by a t over pairs."""
    from scipy.stats import t

    n = len(differences)
    half = t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n) if n > 1 else math.inf
    return statistics.mean(differences), half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument(
        "--weights", default="mobilenet_v2.safetensors", help="a file, here or below TRANSFERLAB_WEIGHTS"
    )
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="two steps on noise")
    parser.add_argument("--out", type=Path, help="where the JSON goes; by default below benchmarks/results")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--small", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.quick = given.quick or bool(given.small)
    if given.contestant:
        print(json.dumps(contest(given)))
        return
    from importlib.util import find_spec

    who = ["ours", *RATES, *(["fastai"] if find_spec("fastai") and not given.quick else [])]
    sets, seeds = (["noise"], 1) if given.quick else (given.sets, given.seeds)
    runs: list[dict] = []
    with tempfile.TemporaryDirectory() as top:
        if given.quick:
            given.weights, given.px = quick_weights(Path(top)), 32
        same = {"device": given.device, "minutes": given.minutes, "weights": given.weights, "px": given.px}
        same |= {"small": int(given.quick)}
        for seed in range(seeds):
            for name in sets:
                folder = Path(top) / f"{name.replace('/', ' ')} {seed}"
                make(name, folder, seed, given.quick)
                for one in who:
                    found = ask(__file__, contestant=one, folder=folder, seed=seed, **same)
                    runs.append(found | {"set": name, "seed": seed})
                    reached = f"{100 * found['accuracy']:.1f}% in {found['seconds']:.0f} s"
                    print(f"{name}, seed {seed}: {one:36} {reached}", flush=True)
    accuracy = {(r["who"], r["set"], r["seed"]): 100 * r["accuracy"] for r in runs}
    rows = []
    for other in who[1:]:
        pairs = [accuracy["ours", s, n] - accuracy[other, s, n] for n in range(seeds) for s in sets]
        mean, half = interval(pairs)
        around = f"[{mean - half:+.1f}, {mean + half:+.1f}] over {len(pairs)} pairs"
        what = f"FineTuner less {other}, {given.minutes:g} minutes, {around}"
        rows.append({"what": what, "value": mean, "unit": "points", "target": "above 0, the interval above -1"})
    about = {"rounds": seeds, "minutes": given.minutes, "sets": sets, **machine(given.device)}
    write(f"own-images-{given.device.partition(':')[0]}", rows, about, runs, given.out, given.quick)


def quick_weights(folder: Path) -> str:
    """Write the weights of a small network that nobody trained."""
    import torchvision
    from safetensors.torch import save_file

    path = folder / "shufflenet_v2_x0_5.safetensors"
    save_file(torchvision.models.get_model(path.stem).state_dict(), path)
    return str(path)


if __name__ == "__main__":
    main()
