"""One training run over several processes, each with its own GPU: torchrun starts them, DDP averages gradients."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import check


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it did; yields the device that this one computes on."""
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu"
    finally:
        dist.destroy_process_group()


def number() -> int:
    """Return this process's number; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def part(batch: int) -> slice:
    """Return which images of every batch this process sees.

    Raises
    ------
    UserError
        If a batch cannot be shared out evenly.
    """
    check(batch % count() == 0, "batch", batch, f"must be a multiple of the number of processes, {count()}")
    return slice(number(), None, count())


def shared(net: nn.Module) -> nn.Module:
    """Return the network with gradients averaged over all processes; BatchNorm sees each one's own part."""
    return DistributedDataParallel(net) if count() > 1 else net


def mean(values: torch.Tensor) -> None:
    """Average `values` over all processes, in place."""
    if count() > 1:
        dist.all_reduce(values)
        values /= count()


def agreed(value: bool) -> bool:
    """Return what process 0 thinks, once all have asked."""
    said = [value]
    if count() > 1:
        dist.broadcast_object_list(said)
    return said[0]
