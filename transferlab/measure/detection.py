"""How good detections are: PASCAL's average precision of 2007, and COCO's."""

import numpy as np
import torch
from torch import nn
from torchvision.ops import box_iou

from ..data.images import Sample
from ..errors import check
from ..train.read import detected

OVERLAP = 0.5  # intersection over union from which on PASCAL calls an object found

Found = list[dict[str, torch.Tensor]]


def objects_of(labels: torch.Tensor) -> list[torch.Tensor]:
    """Return the objects of each image, float64 (objects, 6) on the CPU, of labels as `data.images.Sample` has them."""
    return [each[each[:, 0] >= 0] for each in labels.cpu().double()]


def scored(net: nn.Module, sample: Sample) -> dict[str, object]:
    """Return how well a detector finds the objects of a sample."""
    return scores_of_detections(detected(net, sample), sample.labels, sample.classes)


def scores_of_detections(found: Found, labels: torch.Tensor, classes: int) -> dict[str, object]:
    """Return how well the objects of images were found.

    Parameters
    ----------
    found : list of dict of str to Tensor, length n
        Of each image ``boxes`` (k, 4), as x0, y0, x1, y1 in pixels, ``labels`` and ``scores`` (k,), as torchvision's
        detectors return them.
    labels : Tensor of float32, shape (n, M, 6)
        Class, box, and whether it is difficult; behind an image's last object classes are -1.
    classes : int

    Returns
    -------
    dict
        ``ap50`` and ``map``: COCO's average precision at an overlap of .5, and averaged over .5 to .95, of the 100
        surest detections an image; what is difficult is COCO's crowd, so that detections inside of it count neither
        way. ``ap_voc07``: see `voc07`. All three are means over the classes of which there are objects, none of them
        difficult; ``class_ap50`` has each class's own, or ``None``. ``n``: the number of images.

    Raises
    ------
    UserError
        If no image has an object that is not difficult.
    """
    truth = objects_of(labels)
    check(any((t[:, 5] == 0).any() for t in truth), "objects", 0, "there are none to be found")
    each, voc = coco(found, truth, classes), voc07(found, truth, classes)
    ap50, there = each[0], ~np.isnan(each[0])
    means = {"ap50": ap50[there].mean(), "map": each[:, there].mean(), "ap_voc07": np.nanmean(voc)}
    by_class = [round(float(value), 5) if known else None for value, known in zip(ap50, there, strict=True)]
    return {k: round(float(v), 5) for k, v in means.items()} | {"class_ap50": by_class, "n": len(truth)}


def coco(found: Found, truth: list[torch.Tensor], classes: int) -> np.ndarray:
    """Return COCO's average precisions at overlaps of .5, .55 ... .95: (10, classes), NaN for a class without objects.

    Parameters are those of `scores_of_detections`, and `objects_of` its labels.
    """
    from torchmetrics.detection import MeanAveragePrecision  # slow to import

    # its own are float32: a recall of exactly .3 would not reach them
    exact = {"iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(), "rec_thresholds": np.linspace(0, 1, 101).tolist()}
    metric = MeanAveragePrecision(**exact, extended_summary=True, backend="faster_coco_eval")
    metric.warn_on_many_detections = False  # a hundred are meant
    said = [{name: value.cpu() for name, value in one.items()} for one in found]
    known = [{"boxes": t[:, 1:5].float(), "labels": t[:, 0].long(), "iscrowd": t[:, 5].long()} for t in truth]
    metric.update(said, known)
    result, ap = metric.compute(), np.full((10, classes), np.nan)
    seen = result["classes"].reshape(-1).numpy()
    precision = result["precision"][:, :, :, 0, -1].double().numpy()  # (overlaps, recalls, classes), any size
    ap[:, seen] = np.where((precision > -1).all(1), precision.mean(1), np.nan)
    return ap


def voc07(found: Found, truth: list[torch.Tensor], classes: int) -> np.ndarray:
    """Return PASCAL VOC's average precision of 2007 of each class: (classes,), NaN for a class without objects.

    That is the mean of the best precision at a recall of 0, .1 ... 1 or more. A detection belongs to the object of its
    class that it overlaps most, by .5 or more; the surest one of an object is right, others are wrong; one of a
    difficult object counts neither way. (PASCAL's boxes hold the pixels of both edges; those of `data.objects` reach
    from edge to edge, which is the same.) Of equal scores the first image goes first. Parameters are those of `coco`.
    """
    parts, before = [], 0
    for one, objects in zip(found, truth, strict=True):
        boxes, said, scores = (one[name].cpu().double() for name in ("boxes", "labels", "scores"))
        overlap = box_iou(boxes, objects[:, 1:5]) * (said[:, None] == objects[:, 0])
        overlap = np.pad(overlap.numpy(), ((0, 0), (0, 1)))  # the last one is none
        which, hit = overlap.argmax(1), overlap.max(1) >= OVERLAP
        hard = np.pad(objects[:, 5].numpy(), (0, 1))[which]
        parts.append(np.stack([said.numpy(), scores.numpy(), np.where(hit, before + which, -1), hit * hard]))
        before += len(objects)
    every = np.concatenate(parts, 1)
    said, _, which, ignored = every[:, np.argsort(-every[1], kind="stable")]
    first = np.isin(np.arange(len(which)), np.unique(which, return_index=True)[1])
    right, ap = first & (which >= 0), np.full(classes, np.nan)
    wanted = torch.cat(truth).numpy()
    for each in range(classes):
        count = ((wanted[:, 0] == each) & (wanted[:, 5] == 0)).sum()
        of = right[(said == each) & (ignored == 0)].cumsum()
        if count:
            precision = of / np.arange(1, len(of) + 1)
            # in whole numbers: 3 of 10 reach a recall of .3
            ap[each] = np.mean([precision[of * 10 >= tenth * count].max(initial=0) for tenth in range(11)])
    return ap
