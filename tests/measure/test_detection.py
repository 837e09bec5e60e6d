"""Average precision against hand-made cases, and against slow code that says the protocols once more."""

import math

import numpy as np
import pytest
import torch

from transferlab.errors import UserError
from transferlab.measure.detection import scores_of_detections

NONE = (-1, 0, 0, 0, 0, 0)
A, B, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 60, 60)


def truth(*images):
    """Labels of images, each some (class, box, difficult)."""
    rows = [[(label, *box, hard) for label, box, hard in image] for image in images]
    most = max(map(len, rows)) + 1
    return torch.tensor([row + [NONE] * (most - len(row)) for row in rows], dtype=torch.float32)


def said(*objects):
    """What a detector says of an image: some (class, box, score)."""
    return {
        "boxes": torch.tensor([box for _, box, _ in objects], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([label for label, _, _ in objects], dtype=torch.int64),
        "scores": torch.tensor([score for _, _, score in objects], dtype=torch.float32),
    }


def aps(found, labels, classes=1):
    value = scores_of_detections(found, labels, classes)
    return value["ap50"], value["map"], value["ap_voc07"]


# --------------------------------------------------------------------------------------------------- hand-made cases


def test_all_found_and_none_found():
    labels = truth([(0, A, 0)], [(1, B, 0), (0, FAR, 0)])
    value = scores_of_detections([said((0, A, 0.9)), said((1, B, 0.8), (0, FAR, 0.7))], labels, 2)
    assert value == {"ap50": 1.0, "map": 1.0, "ap_voc07": 1.0, "class_ap50": [1.0, 1.0], "n": 2}
    assert aps([said(), said()], labels, 2) == (0, 0, 0)


def test_a_duplicate_is_wrong():
    labels = truth([(0, A, 0), (0, B, 0)])
    found = [said((0, A, 0.9), (0, A, 0.8), (0, B, 0.7))]
    # precision 1 up to a recall of a half, then 2/3
    ap50, _, voc = aps(found, labels)
    assert ap50 == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-5)
    assert voc == pytest.approx((6 + 5 * 2 / 3) / 11, abs=1e-5)


def test_a_class_without_objects_is_left_out_of_the_mean():
    value = scores_of_detections([said((0, A, 0.9), (1, B, 0.99))], truth([(0, A, 0)]), 3)
    assert (value["ap50"], value["ap_voc07"], value["class_ap50"]) == (1, 1, [1.0, None, None])


def test_of_equal_scores_the_first_goes_first():
    labels = truth([(0, A, 0)], [(0, A, 0)])
    right_first = aps([said((0, A, 0.5)), said((0, FAR, 0.5))], labels)
    wrong_first = aps([said((0, FAR, 0.5)), said((0, A, 0.5))], labels)
    assert right_first == (pytest.approx(51 / 101, abs=1e-5), pytest.approx(51 / 101, abs=1e-5), round(6 / 11, 5))
    assert wrong_first[2] == round(6 / 11 / 2, 5)


def test_a_difficult_object_counts_neither_way():
    labels = truth([(0, A, 0), (0, B, 1)])
    assert aps([said((0, A, 0.5), (0, B, 0.9), (0, B, 0.8))], labels) == (1, 1, 1)
    assert aps([said((0, A, 0.5))], labels) == (1, 1, 1)
    wrong = aps([said((0, A, 0.5), (0, FAR, 0.9))], labels)
    assert wrong == (0.5, 0.5, 0.5)


def test_an_image_without_objects_can_only_be_wrong():
    labels = truth([(0, A, 0)], [])
    assert aps([said((0, A, 0.9)), said()], labels) == (1, 1, 1)
    assert aps([said((0, A, 0.5)), said((0, A, 0.9))], labels) == (0.5, 0.5, 0.5)


def test_an_overlap_of_a_half_is_enough():
    labels = truth([(0, A, 0)])
    assert aps([said((0, (0, 0, 10, 5), 0.9))], labels)[::2] == (1, 1)
    assert aps([said((0, (0, 0, 10, 4.9), 0.9))], labels)[::2] == (0, 0)


def test_nothing_to_be_found_is_refused():
    with pytest.raises(UserError, match="objects \\(=0\\)"):
        scores_of_detections([said((0, A, 0.9))], truth([(0, A, 1)]), 1)


# ----------------------------------------------------------------------------------- the protocols, said once more


def slow_iou(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    both = max(wide, 0) * max(high, 0)
    return both / (area(a) + area(b) - both)


def slow_voc(found, images, label):
    """PASCAL's development kit of 2007, line by line."""
    every = [(float(s), i, b) for i, one in enumerate(found) for o, b, s in one if o == label]
    every.sort(key=lambda each: -each[0])
    taken, right, wrong = set(), [], []
    wanted = sum(o == label and not hard for image in images for o, _, hard in image)
    for _, i, box in every:
        best, which = -math.inf, None
        for n, (o, other, _) in enumerate(images[i]):
            if o == label and (iou := slow_iou(box, other)) > best:
                best, which = iou, n
        if best >= 0.5:
            if images[i][which][2]:
                continue
            right.append((i, which) not in taken)
            wrong.append((i, which) in taken)
            taken.add((i, which))
        else:
            right.append(False)
            wrong.append(True)
    total = 0.0
    for tenth in range(11):
        reached = [
            sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if 10 * sum(right[: k + 1]) >= tenth * wanted
        ]
        total += max(reached, default=0) / 11
    return total if wanted else None


def slow_coco(found, images, label, least):
    """COCO's rule: each detection takes the best object that is left; crowds last, by the share that lies inside."""
    every, taken = [], set()
    for i, one in enumerate(found):
        for o, box, score in sorted(one, key=lambda each: -each[2]):
            if o != label:
                continue
            best, which = least, None
            for n, (other_label, other, hard) in enumerate(images[i]):
                if other_label == label and not hard and (i, n) not in taken and slow_iou(box, other) >= best:
                    best, which = slow_iou(box, other), n
            if which is None:
                inside = [
                    max(0, min(box[2], b[2]) - max(box[0], b[0])) * max(0, min(box[3], b[3]) - max(box[1], b[1]))
                    for o2, b, hard in images[i]
                    if o2 == label and hard
                ]
                if max(inside, default=0) / ((box[2] - box[0]) * (box[3] - box[1])) >= least:
                    continue
            else:
                taken.add((i, which))
            every.append((score, which is not None))
    every.sort(key=lambda each: -each[0])
    wanted = sum(o == label and not hard for image in images for o, _, hard in image)
    if not wanted:
        return None
    right = np.cumsum([good for _, good in every])
    precision, recall = right / np.arange(1, len(every) + 1), right / wanted
    return np.mean([max(precision[recall >= r], default=0) for r in np.linspace(0, 1, 101)])


def drawn(seed, images=12, classes=3):
    """Objects, and detections of them, some off, some doubled, some of nothing."""
    draw = np.random.default_rng(seed)
    box = lambda: (lambda x, y, w, h: (x, y, x + w, y + h))(*draw.integers(0, 60, 2), *draw.integers(8, 40, 2))  # noqa: E731
    every, found = [], []
    for _ in range(images):
        objects = [(int(draw.integers(classes)), box(), int(draw.random() < 0.25)) for _ in range(draw.integers(0, 5))]
        near = lambda b: tuple(v + int(draw.integers(-4, 5)) for v in b)  # noqa: E731
        said_of = [(o, near(b)) for o, b, _ in objects for _ in range(draw.integers(0, 3))]
        said_of += [(int(draw.integers(classes)), box()) for _ in range(draw.integers(0, 3))]
        every.append(objects)
        found.append([(o, b, 0.0) for o, b in said_of])
    scores = iter(draw.permutation(1000) / 1000)
    return every, [[(o, b, float(np.float32(next(scores)))) for o, b, _ in one] for one in found]


@pytest.mark.parametrize("seed", range(6))
def test_as_slow_code_says(seed):
    every, found = drawn(seed)
    value = scores_of_detections([said(*one) for one in found], truth(*every), 3)
    voc = [slow_voc(found, every, label) for label in range(3)]
    coco = [[slow_coco(found, every, label, least) for label in range(3)] for least in np.linspace(0.5, 0.95, 10)]
    assert value["class_ap50"] == pytest.approx(coco[0], abs=1e-5)
    assert value["ap50"] == pytest.approx(np.mean(coco[0]), abs=1e-5)
    assert value["map"] == pytest.approx(np.mean(coco), abs=1e-5)
    assert value["ap_voc07"] == pytest.approx(np.mean(voc), abs=1e-5)
