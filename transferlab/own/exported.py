"""A trained network as files that stand alone: written, read again, and asked about images."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from ..cores import cpu_workers
from ..data.augment import CHANNEL_MEAN, STD
from ..data.files import read_file
from ..data.images import Sample, shrink
from ..data.opened import Item
from ..errors import UserError, check, line
from ..nets.build import build
from ..nets.grow import widen
from ..nets.weights import fit_state
from ..paths import write_atomically
from ..specs import Backbone, Torchvision
from ..specs.serial import Spec
from ..train.read import predict

FORMAT = "1"  # of the files; raise it when a network that was written before would be read wrongly
MODEL, ONNX, METRICS, PREDICTIONS = "model.safetensors", "model.onnx", "metrics.json", "predictions.csv"
READ_AT_ONCE = 64  # pictures that are decoded before the network is asked
PREPROCESSING = (
    "decode upright (EXIF), as RGB of 8 bits, transparent parts white; resize the short side to size with a box filter "
    "(PIL.Image.Resampling.BOX); cut out the middle, size x size px; divide by 255; subtract mean, divide by std; "
    "order: channels, rows, columns"
)


class Model(NamedTuple):
    """A trained network, and what is written beside its weights."""

    net: nn.Module
    about: dict[str, str]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of its outputs."""
        return json.loads(self.about["classes"])

    def probabilities(self, places: Iterable[str]) -> Iterator[tuple[str, np.ndarray | UserError]]:
        """Yield files with the probabilities of the classes, float64, or with the reason why they cannot be read."""

        def pixels(place: str) -> np.ndarray | UserError:
            try:
                return shrink(Item(place, 0, partial(read_file, place)).image(), int(self.about["size"]))
            except UserError as e:
                return e

        waiting = iter(places)
        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(cpu_workers(1)) as pool:
            while some := list(islice(waiting, READ_AT_ONCE)):
                read = list(pool.map(pixels, some))
                good = [r for r in read if not isinstance(r, UserError)]
                rows = torch.arange(len(good))
                logits = predict(self.net, Sample(torch.from_numpy(np.stack(good)), rows, rows, 0)) if good else rows
                found = iter(logits.cpu().double().softmax(-1).numpy())
                yield from (
                    (p, r if isinstance(r, UserError) else next(found)) for p, r in zip(some, read, strict=True)
                )


def described(name: str, backbone: Backbone, size: int, classes: Sequence[str], **more: str) -> dict[str, str]:
    """Return what is written beside a network's weights."""
    net = f"torchvision.models.get_model({name!r}, num_classes={len(classes)})"
    load = f"net = {net}; net.load_state_dict(safetensors.torch.load_file({MODEL!r})); net.eval()"
    about = {"format": FORMAT, "network": name, "backbone": backbone.canonical, "classes": json.dumps(list(classes))}
    about |= {"size": str(size), "mean": json.dumps(CHANNEL_MEAN), "std": json.dumps(STD)}
    return (
        about | {"preprocessing": PREPROCESSING} | ({"load": load} if isinstance(backbone, Torchvision) else {}) | more
    )


def write_model(folder: Path, model: Model) -> str:
    """Write a network's weights, and as ONNX; return why there is no ONNX file, if so.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    write_atomically(folder / MODEL, save(state, model.about))
    try:
        write_atomically(folder / ONNX, onnx(model))
    except ImportError as e:
        return f"{ONNX}: not written, {e.name} is missing; pip install onnxscript, and give the same command again"
    except UserError:
        raise
    except Exception as e:  # an exporter that lacks an operator, say: all else is there
        return f"{ONNX}: not written ({line(e)})"
    return ""


def onnx(model: Model) -> bytes:
    """Return a network as an ONNX file: ``images`` (N, 3, size, size), normalised, to ``logits``, for any N."""
    import onnxscript  # noqa: F401  (torch says in many words that it is missing)

    device, side = next(model.net.parameters()).device, int(model.about["size"])
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": ({0: torch.export.Dim("N")},)}
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        example = (torch.zeros(2, 3, side, side, device=device),)
        made = torch.onnx.export(model.net.eval(), example, dynamo=True, verbose=False, **names).model_proto
    for name in ("classes", "size", "mean", "std", "preprocessing"):
        made.metadata_props.add(key=name, value=model.about[name])
    return made.SerializeToString()


def read_about(folder: Path) -> dict[str, str]:
    """Return what is written beside the weights in a folder.

    Raises
    ------
    UserError
        If there is no model, or one that another version of the package made.
    """
    path = folder / MODEL
    check(path.is_file(), "model", folder, f"there is no {MODEL} in it; make one with: transferlab finetune FOLDER")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
    except (SafetensorError, OSError) as e:
        raise UserError(f"model (={path}): cannot be read ({line(e)}); make it again") from e
    made = about.get("format", "none")
    check(made == FORMAT, "model", folder, f"is of format {made}, and this version of transferlab reads {FORMAT}")
    return about


def read_model(folder: Path, device: torch.device) -> Model:
    """Return the network in a folder, on a device.

    Raises
    ------
    UserError
        As `read_about`; or if the weights are not the network's.
    """
    about = read_about(folder)
    classes = len(json.loads(about["classes"]))
    net = build(Spec.from_dict(json.loads(about["backbone"])), int(about["size"]), classes, seed=0)
    net = widen(net, int(about["widened"]), classes=classes) if "widened" in about else net
    fit_state(net, load_file(folder / MODEL), os.fspath(folder))
    return Model(net.to(device), about)


def table(rows: Iterable[Sequence]) -> str:
    """Return rows as CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
