"""Batched augmentation on uint8 images that stay where they are: batches are indices, crops are gathers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from ..errors import check
from .objects import LEAST

CHANNEL_MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R 601
BLOCK = 50  # steps drawn at once; another number would draw others


@dataclass(frozen=True)
class Draws:
    """The random part of a few steps, drawn on the CPU and moved to the device in one go.

    Attributes
    ----------
    index : Tensor of int64, shape (steps, batch)
        Positions in the sample.
    shift : Tensor of int64, shape (steps, batch, 2)
        Pixels down and right, from -pad to pad.
    mirror : Tensor of bool, shape (steps, batch)
    """

    index: torch.Tensor
    shift: torch.Tensor
    mirror: torch.Tensor

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All three, in the order above."""
        return self.index, self.shift, self.mirror

    def at(self, step: int | torch.Tensor) -> Draws:
        """Return the draws of one step, whose number may be on the device, in a tensor of shape (1,)."""
        one = (lambda t: t[step]) if isinstance(step, int) else (lambda t: t.index_select(0, step)[0])
        return Draws(*map(one, self.parts))

    def to(self, device: torch.device) -> Draws:
        return Draws(*(t.to(device, non_blocking=True) for t in self.parts))


class Sampler:
    """Draws batches: epochs of a sample in a new order each, and a shift and a mirroring for every image.

    With a table, instead of epochs an image with each that another sampler draws: one of its row, uniformly.

    Everything is drawn on the CPU, whatever the device, so that all devices see the same draws.

    Parameters
    ----------
    count : int
        Images in the sample; a batch may be larger, and then holds repeats.
    batch : int
    pad : int
        Largest shift in pixels.
    seed : int
    table : Tensor of int64, shape (n, K), optional
        For each of the n images of another sample, positions in this one, -1 behind their end.

    Raises
    ------
    UserError
        If there are no images.
    """

    def __init__(self, count: int, batch: int, pad: int, seed: int, table: torch.Tensor | None = None) -> None:
        check(count > 0, "images", count, "there must be some to train on")
        self.count, self.batch, self.pad = count, batch, pad
        self.generator = torch.Generator().manual_seed(seed)
        self.waiting = torch.empty(0, dtype=torch.int64)
        self.table = table if table is None else table.cpu()

    def block(self, steps: int, others: torch.Tensor | None = None) -> Draws:
        """Return the random part of the next steps. Training asks for `BLOCK` steps at a time: that fixes the draws.

        `others` are the positions that the other sampler drew, shape (steps, batch), where there is a table.
        """
        if self.table is None:
            parts, count = [self.waiting], steps * self.batch
            while sum(map(len, parts)) < count:
                parts.append(torch.randperm(self.count, generator=self.generator))
            index, self.waiting = torch.cat(parts).tensor_split([count])
        else:
            share = torch.rand(steps, self.batch, dtype=torch.float64, generator=self.generator)
            index = self.table[others, (share * (self.table >= 0).sum(1)[others]).long()]
        shift = torch.randint(-self.pad, self.pad + 1, (steps, self.batch, 2), generator=self.generator)
        mirror = torch.rand(steps, self.batch, generator=self.generator) < 0.5
        return Draws(index.reshape(steps, self.batch), shift, mirror)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the next block depends on."""
        return {"generator": self.generator.get_state(), "waiting": self.waiting.clone()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go back to where `state` was taken."""
        self.generator.set_state(state["generator"])
        self.waiting = state["waiting"]


@cache
@torch.inference_mode(False)
def _statistics(device: torch.device) -> tuple[torch.Tensor, ...]:
    return (torch.tensor((CHANNEL_MEAN, STD), device=device) * 255).unbind()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images (N, H, W, 3) as float32 (N, 3, H, W), channels_last, by ImageNet's mean and deviation."""
    mean, std = _statistics(images.device)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def luma(pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 images (N, H, W, 3) without colour: every channel the luma, rounded."""
    red, green, blue = (part * share for part, share in zip(pixels.float().unbind(-1), LUMA, strict=True))
    grey = red + green + blue  # in this order on every device: a product of matrices has an order of its own
    return grey.round().to(torch.uint8)[..., None].expand(pixels.shape)


def crop_flip(pixels: torch.Tensor, rows: torch.Tensor, shift: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """Gather images, each shifted and mirrored on its own; pixels beyond the edge repeat the edge.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (N, H, W, 3)
    rows : Tensor of int64, shape (B,)
    shift : Tensor of int64, shape (B, 2)
    mirror : Tensor of bool, shape (B,)

    Returns
    -------
    Tensor of uint8, shape (B, H, W, 3)
    """
    height, width = pixels.shape[1:3]
    down = torch.arange(height, device=pixels.device) + shift[:, :1]  # (B, H)
    right = torch.arange(width, device=pixels.device)
    right = torch.where(mirror[:, None], width - 1 - right, right) + shift[:, 1:]  # (B, W)
    down, right = down.clamp(0, height - 1), right.clamp(0, width - 1)
    return pixels[rows[:, None, None], down[:, :, None], right[:, None, :]]


def crop_flip_boxes(boxes: torch.Tensor, shift: torch.Tensor, mirror: torch.Tensor, size: int) -> torch.Tensor:
    """Return where objects (B, M, 6) lie in images that `crop_flip` made, as `data.objects.moved` has it: what is left
    less than a quarter of is difficult, and that of which nothing is left goes.
    """
    label, *edges, hard = boxes.unbind(2)
    left, top, right, bottom = (edge - shift[:, (1 - i % 2), None] for i, edge in enumerate(edges))
    turn = mirror[:, None]
    left, right = torch.where(turn, size - right, left), torch.where(turn, size - left, right)
    whole = (right - left) * (bottom - top)
    left, top, right, bottom = (edge.clamp(0, size) for edge in (left, top, right, bottom))
    share = (right - left) * (bottom - top) / whole.clamp_min(1e-6)
    label, hard = torch.where(share > 0, label, -1.0), torch.where(share < LEAST, 1.0, hard)
    return torch.stack([label, left, top, right, bottom, hard], 2)
