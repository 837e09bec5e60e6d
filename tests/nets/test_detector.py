"""A detector on a network's convolutions: which maps it reads, what goes over, and what it says of known boxes."""

import pytest
import torch

from transferlab.errors import UserError
from transferlab.nets import taps
from transferlab.nets.build import build
from transferlab.nets.detector import detections, detector, losses, maps
from transferlab.specs import AlexNet, ResNet, Torchvision

SMALL = AlexNet((8, 8, 8, 8, 8), (24, 16))


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("backbone", "built", "size", "read"),
    [
        (SMALL, 32, 128, ["pool5"]),  # the entrance of small images
        (SMALL, 128, 128, ["conv2", "conv5", "pool5"]),
        (ResNet(18, "full"), 64, 64, ["layer2", "layer3", "layer4"]),
        (Torchvision("mobilenet_v2"), 64, 64, ["6", "13", "18"]),
        (Torchvision("squeezenet1_0"), 64, 64, ["10", "12"]),
    ],
)
def test_the_last_map_of_each_stride_is_read(backbone, built, size, read):
    net = build(backbone, built, 2, 0)
    assert [*maps(getattr(net, "features", net), size)] == read
    made = detector(net, size, 3, 0)
    body = made.backbone.body
    shared = {id(p) for p in net.parameters()} & {id(p) for p in made.parameters()}
    assert shared == {id(p) for p in body.parameters()}
    assert all(m.weight.ndim == 4 for m in body.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
    taps.train_mode(made)
    labels = torch.tensor([[[1, 4, 4, 30, 40, 0.0]], [[-1] * 6]])
    sum(losses(made, images(size), labels).values()).backward()
    assert all(p.grad is not None for p in body.parameters())


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_a_network_without_maps_is_refused(name):
    with pytest.raises(UserError, match=r"network \(=.*\): (has no chain|makes no maps)"):
        detector(build(Torchvision(name), 224, 2, 0), 224, 3, 0)


def test_equal_seeds_are_equal_weights_and_the_global_state_is_left():
    before = torch.random.get_rng_state()
    one, same, other = (detector(build(SMALL, 32, 2, 0), 64, 3, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["rpn.head.cls_logits.weight"], other["rpn.head.cls_logits.weight"])


def test_frozen_layers_stay_as_they_are():
    net = build(SMALL, 32, 2, 0)
    taps.freeze(net, "conv3")
    made = detector(net, 64, 3, 0)
    taps.train_mode(made)
    assert not made.backbone.body.conv3.norm.training
    assert made.backbone.body.conv4.norm.training
    assert {n.split(".")[0] for n, p in made.backbone.body.named_parameters() if p.requires_grad} == {"conv4", "conv5"}


def test_difficult_objects_and_those_behind_the_end_are_none():
    made = detector(build(SMALL, 32, 2, 0), 64, 3, 0).train()
    plain = torch.tensor([[[1, 4, 4, 30, 40, 0.0], [-1] * 6], [[-1] * 6, [-1] * 6]])
    more = plain.clone()
    more[0, 1] = more[1, 0] = torch.tensor([2, 10, 10, 50, 50, 1.0])
    found = []
    for labels in (plain, more):
        torch.manual_seed(0)
        found.append(losses(made, images(64), labels))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_known_detector_says_what_it_must():
    """Every proposal is of class 1, where it was proposed: what overlaps is said once, inside of the picture."""
    made = detector(build(SMALL, 32, 2, 0), 64, 3, 0).eval()
    predictor = made.roi_heads.box_predictor
    with torch.no_grad():
        for layer in (predictor.cls_score, predictor.bbox_pred):
            layer.weight.zero_()
            layer.bias.zero_()
        predictor.cls_score.bias[2] = 5.0  # behind "nothing" and class 0
        found = detections(made, images(64))
    sure = torch.tensor([0.0, 0.0, 5.0, 0.0]).softmax(0)
    assert len(found) == 2
    for one in found:
        kept = one["scores"] > 0.5
        assert set(one["labels"][kept].tolist()) == {1}
        torch.testing.assert_close(one["scores"][kept], sure[2].expand(int(kept.sum())))
        assert ((one["boxes"] >= 0) & (one["boxes"] <= 64)).all()
        assert (one["boxes"][:, 2:] > one["boxes"][:, :2]).all()


def test_training_it_finds_a_box():
    """One picture with a bright square: after some steps its box is found."""
    picture, labels = torch.zeros(1, 3, 64, 64), torch.tensor([[[2, 20, 8, 44, 40, 0.0]]])
    picture[:, :, 8:40, 20:44] = 2.0
    torch.manual_seed(0)
    made = detector(build(SMALL, 32, 2, 0), 64, 3, 0).train()
    optimiser = torch.optim.SGD(made.parameters(), lr=0.02, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        sum(losses(made, picture, labels).values()).backward()
        optimiser.step()
    with torch.no_grad():
        (found,) = detections(made.eval(), picture)
    assert found["labels"][0] == 2
    assert (found["boxes"][0] - labels[0, 0, 1:5]).abs().max() < 6
