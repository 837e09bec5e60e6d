"""Torchvision's Faster R-CNN on a network's convolutions, with a pyramid, anchors and numbers for small pictures."""

from functools import partial

import numpy as np
import torch
from torch import nn

from ..errors import check

FINEST = 8  # stride of the first map that is read, where the network has one
PYRAMID_CHANNELS, BOX_UNITS = 64, 256  # channels of the pyramid, units of the dense layers behind it
NORM_GROUPS = 8
ANCHOR_SHAPES = (0.5, 1.0, 2.0)  # height to width of anchors
ANCHOR_SIDES = 0.09, 0.86  # of the smallest and the largest anchor, as a share of the picture's
BOX_GRID = 5  # positions a side that are read of a proposed box
BOXES_PROPOSED, BOXES_DRAWN = 100, 64  # boxes an image that are looked at, and of which training draws
LEAST_SCORE = 0.02  # score from which on something is a detection


def detector(net: nn.Module, size: int, classes: int, seed: int) -> nn.Module:
    """Return torchvision's Faster R-CNN (Ren et al. 2015, Lin et al. 2017) around a network's convolutional part.

    It shares that part; dense layers stay behind. The last maps of a stride of 8, 16 and so on are read, as far as
    there are any. Images come normalised, and of one size.

    Parameters
    ----------
    net : Module
        From `build`, for images of any size; layers may be frozen.
    size : int
        Side of the images in pixels.
    classes : int
    seed : int
        Of the new weights; the global random state is left as it was.

    Returns
    -------
    Module
        See `losses` and `detections`.

    Raises
    ------
    UserError
        If the network is no chain of convolutional parts, or makes no maps of images of this size.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    body = net.features if isinstance(getattr(net, "features", None), nn.Module) else net
    channels = maps(body, size)
    levels, names = len(channels) + 1, {name: name for name in channels}
    sides = np.geomspace(*ANCHOR_SIDES, 3 * levels).reshape(levels, 3) * size
    settings = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True, "size_divisible": 1}
    settings |= {
        f"rpn_{when}_nms_top_n_{mode}": times * BOXES_PROPOSED
        for when, times in (("pre", 3), ("post", 1))
        for mode in ("train", "test")
    }
    settings |= {
        "rpn_batch_size_per_image": BOXES_DRAWN,
        "box_batch_size_per_image": BOXES_DRAWN,
        "box_score_thresh": LEAST_SCORE,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = partial(nn.GroupNorm, NORM_GROUPS)
        pyramid = BackboneWithFPN(body, names, [*channels.values()], PYRAMID_CHANNELS, LastLevelMaxPool(), norm)
        made = FasterRCNN(
            pyramid,
            min_size=size,
            max_size=size,
            rpn_anchor_generator=AnchorGenerator(tuple(map(tuple, sides.tolist())), (ANCHOR_SHAPES,) * levels),
            box_roi_pool=MultiScaleRoIAlign([*names][:1], BOX_GRID, 2),
            box_head=TwoMLPHead(PYRAMID_CHANNELS * BOX_GRID**2, BOX_UNITS),
            box_predictor=FastRCNNPredictor(BOX_UNITS, classes + 1),
            **settings,
        )
    made.head_name = "roi_heads.box_predictor.cls_score"
    return made.to(next(net.parameters()).device)


@torch.no_grad()
def maps(body: nn.Module, size: int) -> dict[str, int]:
    """Return the channels of the last map of each side that a chain of layers makes, by the layer's name.

    From a stride of `FINEST` on; the chain is over where what comes is no map, or has a single position.
    """
    rule = "has no chain of convolutional parts that a detector could stand on"
    check(not [*body.parameters(recurse=False)], "network", type(body).__name__, rule)
    images, found = torch.zeros(1, 3, size, size, device=next(body.parameters()).device), {}
    body.eval()
    for name, child in body.named_children():
        images = child(images)
        if images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[2] == 1:
            break
        if images.shape[2] <= size // FINEST:
            found[images.shape[2]] = name, images.shape[1]
    check(bool(found), "network", type(body).__name__, f"makes no maps of a stride of {FINEST} of images of {size} px")
    return dict(found.values())


def losses(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a detector's losses by name, of images (B, 3, size, size) and their objects (B, M, 6), which are those of
    `data.images.Sample`. Difficult ones are none to it. Proposals are drawn from the global random state.
    """
    plain = [each[(each[:, 0] >= 0) & (each[:, 5] == 0)] for each in labels]
    return net([*images], [{"boxes": each[:, 1:5], "labels": each[:, 0].long() + 1} for each in plain])


def detections(net: nn.Module, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """Return what a detector finds in images: of each ``boxes`` (k, 4), ``labels`` and ``scores`` (k,)."""
    return [one | {"labels": one["labels"] - 1} for one in net([*images])]
