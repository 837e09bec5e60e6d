"""Weights of somebody else: read from the file that a training script wrote, and found there for a network."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from ..errors import UserError, check, few
from ..paths import whole_file

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # of a network or a part of it
PICKLED = {"_modules", "_parameters", "_buffers"}  # where a network that was pickled whole keeps its tensors
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=\d)")  # names of torchvision's first files
AVERAGED = re.compile(r"(^|[._])(ema|swa)([._]|$)")  # what averages of weights are called
COUNTER = "num_batches_tracked"
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads that GoogLeNet and Inception have while they are trained


class _Inert(dict):
    """Stands in for whatever a pickled file names that is no tensor: keeps its state, and runs nothing."""

    def __new__(cls, *given: Any, **named: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        self.update(state if isinstance(state, Mapping) else {})


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read every tensor of a safetensors or torch file under the names that lead to it, floating point as float32.

    No code of the file's is run: a network that was pickled whole is read like its state dict. What wraps a network on
    several devices, or a compiled one, leaves no trace in the names.

    Raises
    ------
    UserError
        If the file is truncated, or holds no tensors by name.
    """
    whole_file("weights", path)
    with open(path, "rb") as file:
        safe = file.read(9)[8:] == b"{"
    try:
        content = safetensors.torch.load_file(path) if safe else _unpickled(path)
    except Exception as e:
        why = (str(e) or type(e).__name__).splitlines()[0]
        if "weights_only" in str(e):  # torch's advice, to run what is in it, is not ours
            named = re.search(r"GLOBAL (\S+)", str(e))
            held = f"{named[1]} in it" if named else "a TorchScript archive" if "TorchScript" in why else "damaged"
            why = f"{held}; save the network's state_dict() by itself"
        raise UserError(f"weights (={path}): cannot be read as a state dict ({why})") from e
    state: dict[str, torch.Tensor] = {}
    for parts, tensor in _tensors(content):
        short, long = (".".join(part for part in parts if part not in left) for left in (WRAPPERS | PICKLED, PICKLED))
        name = OLD_DENSENET.sub(r"\1", long if short in state else short)
        plain = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
        check(plain, "weights", path, f"{name} is no plain tensor (sparse, quantised, or without content)")
        state[name] = tensor.detach().float() if tensor.is_floating_point() else tensor
    held = few([str(name) for name in content], 8) if isinstance(content, Mapping) else type(content).__name__
    check(bool(state), "weights", path, f"cannot be read as a state dict (no tensors by name in it, but {held})")
    return state


def _unpickled(path: Path) -> object:
    odd: list[str] = []
    with suppress(ValueError):  # a file of torch 1.5 or older, which must do without
        odd = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(_Inert, name) for name in odd]), open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)  # whatever its suffix says


def _tensors(content: object, *parts: str, above: tuple[int, ...] = ()) -> Iterator[tuple[list[str], torch.Tensor]]:
    if isinstance(content, torch.Tensor) and parts:
        yield ".".join(parts).split("."), content
    elif isinstance(content, Mapping) and id(content) not in above:
        for name, value in content.items():
            yield from _tensors(value, *parts, str(name), above=(*above, id(content)))


def found_in(state: dict[str, torch.Tensor], net: nn.Module, head: str, name: str) -> dict[str, torch.Tensor]:
    """Return a network's tensors by its own names, wherever in a file they lie; without its head if that is not there.

    They may lie under any key and prefix. Beside them may be an optimiser, other parts of a larger network, and
    averages of the weights, which are preferred. Not asked for are what counts BatchNorm's steps, and the head, in
    whose place may be another one; auxiliary heads are left out.

    Parameters
    ----------
    state : dict
        As from `read_state`.
    net : Module
    head : str
        Name of the layer that makes the logits; there may be any number of classes.
    name : str
        Of the weights, for errors.

    Raises
    ------
    UserError
        Naming the first difference, if nothing in the file fits; or the places, if several fit.
    """
    whole = net.state_dict()
    own = {k: v for k, v in whole.items() if not k.startswith(f"{head}.")}
    body = {k for k in own if not k.endswith(COUNTER)}
    counts = Counter(place for k in state for place, rest in _split(k) if rest in body)
    most = max(counts.values(), default=0)
    places = sorted(place for place in counts if counts[place] == most) or [""]
    parts = {place: _part(state, place, whole, head) for place in places}
    fits = [place for place in places if not differing(own, parts[place][0])]
    if averaged := [place for place in fits if AVERAGED.search(place)] if fits[1:] else []:
        others = few([place or "those at the top" for place in fits if place not in averaged])
        warnings.warn(f"{name}: averaged weights are read ({averaged[0]}), not {others}", stacklevel=2)
        fits = averaged
    same = all(v.equal(parts[fits[0]][0][k]) for place in fits[1:] for k, v in parts[place][0].items())
    check(
        same, "weights", name, f"fit in several places ({few(fits)}); save those that are meant in a file of their own"
    )
    mine, given = parts[(fits or places)[0]]
    refuse(own, mine, name)
    return mine | given


def _split(name: str) -> Iterator[tuple[str, str]]:
    """Yield each way to see a name as that of a tensor in some place."""
    words = name.split(".")
    for i in range(len(words)):
        yield "".join(f"{word}." for word in words[:i]), ".".join(words[i:])


def _part(state: dict, place: str, own: dict, head: str) -> tuple[dict, dict]:
    """Return the tensors in a place of a file that are to be a network's, and apart from them those of its head."""
    mine = {k.removeprefix(place): v for k, v in state.items() if k.startswith(place)}
    weight, bias, reads = f"{head}.weight", f"{head}.bias", own[f"{head}.weight"].shape[1:]
    known = {k.partition(".")[0] for k in own}
    other = {k.partition(".")[0] for k in mine if k.partition(".")[0] not in known and mine[k].shape[1:] == reads}
    out = (*AUXILIARY, *(f"{word}." for word in other if weight not in mine))  # a projection, or a head by another name
    given = {}
    if weight in mine and mine[weight].shape[1:] == reads and len(mine[weight]):
        given = {weight: mine[weight]} | ({bias: mine.get(bias, torch.zeros(len(mine[weight])))} if bias in own else {})
    left = {k: v for k, v in own.items() if k.endswith(COUNTER)}
    left |= {k: v for k, v in mine.items() if not k.startswith((*out, f"{head}.")) and (v.ndim or k.endswith(COUNTER))}
    return left, given


def differing(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> list[str]:
    """Return the names that only one of two state dicts has; if there are none, those whose shapes differ."""
    return sorted(own.keys() ^ state.keys()) or sorted(k for k in own if own[k].shape != state[k].shape)


def refuse(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], name: str) -> None:
    """Raise an error that names the first difference between a network's state dict and another, if there is one."""
    if odd := differing(own, state):
        shapes = [str(tuple(each[odd[0]].shape)) for each in (state, own) if odd[0] in each]
        where = f" is only in the {'network' if odd[0] in own else 'file'}"
        differs = f", {' for '.join(shapes)}" if len(shapes) > 1 else where
        raise UserError(f"weights (={name}): of another architecture ({len(odd)} tensors differ; {odd[0]}{differs})")


def fit_state(net: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Load a state dict whose names and shapes must all match.

    Raises
    ------
    UserError
        Naming the first difference, if the weights are of another architecture, or the first that are no numbers.
    """
    refuse(own := net.state_dict(), state, name)
    whole = next((n for n in own if own[n].is_floating_point() > state[n].is_floating_point()), None)
    check(whole is None, "weights", name, f"hold whole or complex numbers ({whole}); wanted: floating point")
    bad = next((n for n, value in state.items() if not value.isfinite().all()), None)
    check(bad is None, "weights", name, f"hold what is no finite number ({bad})")
    net.load_state_dict(state)
