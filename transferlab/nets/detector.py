"""Torchvision's RetinaNet on a network's convolutions, with a pyramid and anchors for small pictures."""

from functools import partial

import torch
from torch import nn

from ..errors import check

FINEST = 8  # stride of the first map that is read, where the network has one
LEVELS = 3  # maps at least: where the network has fewer, strided convolutions make two more
WIDTH = 64  # channels of the pyramid and of both heads
NORM_GROUPS = 8
ANCHORS = tuple(2 ** (i / 3) for i in range(3))  # sides, in twice the stride: half of what large pictures have
SHAPES = (0.5, 1.0, 2.0)  # height to width
SURE = 0.02  # score from which on something is a detection
MOST_FOUND = 100  # detections an image


def detector(net: nn.Module, size: int, classes: int, seed: int) -> nn.Module:
    """Return torchvision's RetinaNet (Lin et al. 2017) around the convolutional part of a network, which it shares.

    Dense layers stay behind. The last maps of a stride of 8, 16 and so on are read, as far as there are any; heads are
    normalised by groups. Images come as they are, normalised, of one size.

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
        In training it maps a list of images (3, size, size) and one of targets, ``boxes`` (k, 4) and ``labels`` (k,),
        to losses by name; else images to detections: ``boxes``, ``labels`` and ``scores`` of each.

    Raises
    ------
    UserError
        If the network is no chain of convolutional parts, or makes no maps of images of this size.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    body = net.features if isinstance(getattr(net, "features", None), nn.Module) else net
    found = maps(body, size)
    sides, norm = [side for side, _, _ in found], partial(nn.GroupNorm, NORM_GROUPS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        more = LastLevelP6P7(WIDTH, WIDTH) if len(found) < LEVELS else None
        layers = {name: name for _, name, _ in found}
        pyramid = BackboneWithFPN(body, layers, [channels for _, _, channels in found], WIDTH, more, norm)
        for _ in range(2 if more else 0):
            sides.append((sides[-1] + 1) // 2)
        anchors = AnchorGenerator(tuple(tuple(2 * size / side * a for a in ANCHORS) for side in sides), (SHAPES,) * len(sides))
        head = RetinaNetHead(WIDTH, len(ANCHORS) * len(SHAPES), classes, norm)
        as_they_are = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True, "size_divisible": 1}
        limits = {"score_thresh": SURE, "detections_per_img": MOST_FOUND}
        made = RetinaNet(pyramid, classes, size, size, anchor_generator=anchors, head=head, **as_they_are, **limits)
    made.head_name = "head.classification_head.cls_logits"
    return made.to(next(net.parameters()).device)


@torch.no_grad()
def maps(body: nn.Module, size: int) -> list[tuple[int, str, int]]:
    """Return the side, the child's name and the channels of the last map of each side that a chain of layers makes.

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
            found[images.shape[2]] = images.shape[2], name, images.shape[1]
    check(bool(found), "network", type(body).__name__, f"makes no maps of a stride of {FINEST} of images of {size} px")
    return [*found.values()]
