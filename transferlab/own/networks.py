"""The network that a person's own images are learned from: torchvision's by name, a file, or the book's own."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from ..errors import UserError, check, choose, torchvision
from ..nets.build import WITH_AUXILIARY, pretrained
from ..paths import file_fingerprint, weights_root
from ..scales import scale
from ..specs import Backbone, Pretrained, Source, Torchvision, Weights
from ..store import Store

OWN, USUAL = "own", "mobilenet_v2"  # the book's network, and the one that is taken unless one is named
ANSWERS = 10  # seconds that a server has to answer


class Start(NamedTuple):
    """A pretrained network: what it is called, what it is, where it comes from, at which size it is used, and what is
    to be told of it.
    """

    name: str
    backbone: Backbone
    source: Source | Weights
    size: int
    note: str


def start(network: str | None, weights: str | None, size: int | None, seed: int, device: Any) -> Start:
    """Return the network to begin with.

    Weights are looked for in the file that is named, in the folder of weights, and in torch's own folder; else they
    are downloaded. If no network was named, and nothing can be had, it is the book's own.

    Raises
    ------
    UserError
        If there is no such network or file, the weights do not fit, or they can neither be found nor downloaded.
    """
    models = torchvision("models")
    known = [*(n for n in models.list_models(models) if n not in WITH_AUXILIARY), OWN]
    if weights:
        here = Path(weights).expanduser()
        path = here if here.is_file() else weights_root() / here
        check(path.is_file(), "weights", weights, f"there is no such file here, nor in {weights_root()}")
        by_file = next((n for n in known if n == path.name.partition(".")[0].partition("-")[0]), USUAL)
        return _given(choose("network", network or by_file, known[:-1]), path, size, device)
    name = choose("network", network or USUAL, known)
    if name == OWN:
        return _own(size, seed, "")
    found = sorted(p for p in weights_root().glob(f"{name}[.-]*") if p.suffix in (".safetensors", ".pth", ".pt"))
    if found:
        return _given(name, found[0], size, device)
    try:
        given, note = _downloaded(name)
    except UserError as e:
        if network:
            raise
        return _own(size, seed, f"{e}; instead: ")
    return Start(name, Torchvision(name), given, size or _usual_size(device), note)


def _usual_size(device: Any) -> int:
    return 224 if device.type == "cuda" else 128


def _given(name: str, path: Path, size: int | None, device: Any) -> Start:
    path, backbone, size = path.resolve(), Torchvision(name), size or _usual_size(device)
    weights = Weights(f"file:{path}", file_fingerprint(path))
    pretrained(weights, backbone, size)  # or it says what does not fit, before anything is done
    return Start(name, backbone, weights, size, f"{name} with the weights of {path}")


def _downloaded(name: str) -> tuple[Weights, str]:
    """Return torchvision's weights of a network, downloaded if they are not there.

    Raises
    ------
    UserError
        If there are none, or they cannot be had.
    """
    from torch import hub

    choices = [*torchvision("models").get_model_weights(name)]
    check(bool(choices), "network", name, "torchvision has no weights for it; name a file with --weights")
    best = torchvision("models").get_model_weights(name).DEFAULT
    place = Path(hub.get_dir()) / "checkpoints" / os.path.basename(best.url)
    note = f"{name} with torchvision's weights {best.name}"
    if not place.is_file():
        try:
            with urlopen(best.url, timeout=ANSWERS):
                note += f", from {best.url} to {place}"
            best.get_state_dict(progress=False, check_hash=True)
        except (URLError, OSError, RuntimeError) as e:
            what = f"its weights are neither in {weights_root()} nor in {place.parent}"
            raise UserError(f"network (={name}): {what}, and {best.url} cannot be had ({e})") from e
    return Weights(f"torchvision:{best.name}"), note


def _own(size: int | None, seed: int, before: str) -> Start:
    """Return the book's own network, of the longest training that is published for a seed."""
    s, store = scale("cpu"), Store()
    source = replace(s.source_of(), recipe=s.reference)
    there = [n for n in range(s.seeds) if os.path.isfile(store.file(Pretrained(source, s.backbone, n)))]
    check(bool(there), "network", OWN, f"its files are not in {store.shared}; name a file with --weights")
    choose("seed", seed, there)
    cost = f"trained on Tiny ImageNet at {s.size} px, which costs accuracy: name a file with --weights if you can"
    check(size in (None, s.size), "size", size, f"the book's own network takes {s.size} px")
    return Start(OWN, s.backbone, source, s.size, f"{before}the book's own small AlexNet, {cost}")
