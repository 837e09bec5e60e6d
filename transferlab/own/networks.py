"""The network that a person's own images are learned from: torchvision's by name, a file, or the book's own."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from ..errors import UserError, check, choose, line, torchvision
from ..nets.build import WITH_AUXILIARY, pretrained
from ..paths import file_fingerprint, weights_root
from ..scales import scale
from ..specs import Backbone, Pretrained, Source, Torchvision, Weights
from ..store import Store

BOOKS_OWN, USUAL = "own", "mobilenet_v2"  # the book's network, and the one that is taken unless one is named
ANSWERS = 10  # seconds that a server has to answer


class Start(NamedTuple):
    """A pretrained network: its name, what it is, where its weights come from, at which size it is used; and a line."""

    name: str
    backbone: Backbone
    source: Source | Weights
    size: int
    note: str


def start(network: str | None, weights: str | None, size: int | None, seed: int, device: str) -> Start:
    """Return the network to begin with.

    Weights are those of a file that is named; or found in the folder of weights, or in torch's; or downloaded. Where
    no network was named and none can be had, it is the book's own.

    Parameters
    ----------
    network, weights, size, seed
        As in `FineTuner`.
    device : str
        Its type.

    Raises
    ------
    UserError
        If there is no such network or file, weights do not fit, or can neither be found nor downloaded.
    """
    models, path = torchvision("models"), None
    known = [name for name in models.list_models(models) if name not in WITH_AUXILIARY]
    if weights:
        path = Path(weights).expanduser()
        path = path if path.is_file() else weights_root() / path
        check(path.is_file(), "weights", weights, f"there is no such file here, nor in {weights_root()}")
        stem = path.name.partition(".")[0].partition("-")[0]
        name = choose("network", network or (stem if stem in known else USUAL), known)
    else:
        name = choose("network", network or USUAL, [*known, BOOKS_OWN])
        found = sorted(p for p in weights_root().glob(f"{name}[.-]*") if p.suffix in (".safetensors", ".pth", ".pt"))
        path = found[0] if found else None
    if name == BOOKS_OWN:
        return _own(size, seed)
    backbone, size_now = Torchvision(name), size or (224 if device == "cuda" else 128)
    if path:
        given = Weights(f"file:{path.resolve()}", file_fingerprint(path))
        pretrained(given, backbone, size_now)  # or it says what does not fit, before anything is done
        return Start(name, backbone, given, size_now, f"{name} with the weights of {path}")
    try:
        given, note = _downloaded(name)
    except UserError as e:
        if network:
            raise
        return _own(size, seed, f"{e}; instead: ")
    return Start(name, backbone, given, size_now, note)


def _downloaded(name: str) -> tuple[Weights, str]:
    """Return torchvision's weights of a network, downloaded if they are not there, and a line.

    Raises
    ------
    UserError
        If they cannot be had.
    """
    from torch.hub import get_dir

    best = torchvision("models").get_model_weights(name).DEFAULT
    place = Path(get_dir()) / "checkpoints" / os.path.basename(best.url)
    told = "" if place.is_file() else f", downloaded from {best.url} to {place}"
    try:
        if told:
            urlopen(best.url, timeout=ANSWERS).close()
            best.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as e:
        why = f"weights are neither in {weights_root()} nor in {place.parent}, and {best.url} cannot be had ({line(e)})"
        raise UserError(f"network (={name}): {why}") from e
    return Weights(f"torchvision:{best.name}"), f"{name} with torchvision's weights {best.name}{told}"


def _own(size: int | None, seed: int, before: str = "") -> Start:
    """Return the book's own network, of the longest training that is published."""
    s, store = scale("cpu"), Store()
    source = replace(s.source_of(), recipe=s.reference)
    there = [n for n in range(s.seeds) if os.path.isfile(store.file(Pretrained(source, s.backbone, n)))]
    check(bool(there), "network", BOOKS_OWN, f"its files are not in {store.shared}; name a file of weights")
    choose("seed", seed, there)
    check(size in (None, s.size), "size", size, f"the book's own network takes {s.size} px")
    cost = f"trained on Tiny ImageNet at {s.size} px: a file of ImageNet weights makes better ones"
    return Start(BOOKS_OWN, s.backbone, source, s.size, f"{before}the book's own small AlexNet, {cost}")
