"""The AlexNet family: what every image size and width gives, and the count of its arithmetic."""

import pytest
import torch
from torch import nn

from transferlab.errors import UserError
from transferlab.nets.alexnet import Chain
from transferlab.nets.build import build
from transferlab.specs.networks import AlexNet, ResNet, alexnet_geometry

SMALL = AlexNet((4, 6, 8, 8, 5), (12, 10))


def shapes(net: nn.Module, size: int, count: int = 1) -> dict[str, torch.Size]:
    """Shape of what every layer puts out for images of zeros."""
    found = {}
    handles = [
        m.register_forward_hook(lambda m, i, o, n=name: found.__setitem__(n, o.shape))
        for name, m in net.named_modules()
        if name
    ]
    found["logits"] = net.eval()(torch.zeros(count, 3, size, size)).shape
    for handle in handles:
        handle.remove()
    return found


def counted(net: nn.Module, size: int) -> int:
    """Multiply-adds of one image, layer by layer."""
    found = shapes(net, size)
    total = 0
    for name, m in net.named_modules():
        if isinstance(m, nn.Conv2d):
            total += m.weight.numel() * found[name][2] * found[name][3]
        elif isinstance(m, nn.Linear):
            total += m.weight.numel()
    return total


@pytest.mark.parametrize(
    ("size", "side"),
    [(16, 2), (24, 3), (32, 4), (47, 6), (48, 3), (64, 4), (95, 6), (96, 3), (128, 4), (192, 5), (224, 6), (227, 6)],
)
def test_positions_before_fc6(size, side):
    found = shapes(build(SMALL, size, 7, 0), size, count=2)
    assert found["pool5"] == (2, 5, side, side)
    assert found["flatten"] == (2, 5 * side * side)
    assert (found["fc6"], found["fc7"], found["logits"]) == ((2, 12), (2, 10), (2, 7))


def test_alexnet_has_its_own_geometry_at_its_own_size():
    assert alexnet_geometry(227) == [(11, 4, 2, 3), (5, 1, 2, 3), (3, 1, 1, 0), (3, 1, 1, 0), (3, 1, 1, 3)]
    found = shapes(build(SMALL, 224, 2, 0), 224)
    assert [found[f"conv{i}"][2] for i in range(1, 6)] == [55, 27, 13, 13, 13]


def test_layers_in_order():
    net = build(SMALL, 64, 7, 0)
    pooled = ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]
    assert [name for name, _ in net.named_children()] == [*pooled, "flatten", "fc6", "fc7", "head"]


def test_small_images_keep_their_first_layer_whole():
    assert "pool1" not in dict(build(SMALL, 32, 7, 0).named_children())


def test_a_sixth_convolution_stands_before_the_last_pooling():
    net = build(AlexNet((3, 8, 16, 16, 32, 32), (128, 128)), 32, 7, 0)
    assert [name for name, _ in net.named_children() if name.startswith(("conv", "pool"))][-4:] == [
        "conv4",
        "conv5",
        "conv6",
        "pool6",
    ]
    found = shapes(net, 32)
    assert (found["conv6"], found["pool6"], found["logits"]) == ((1, 32, 8, 8), (1, 32, 4, 4), (1, 7))


@pytest.mark.parametrize("channels", [(4, 6, 8, 8, 5), (4, 6, 8, 8, 5, 3), (4, 6, 8, 8, 5, 3, 2)])
@pytest.mark.parametrize("size", [24, 64, 96, 227])
def test_multiply_adds(size, channels):
    spec = AlexNet(channels, (12, 10))
    net = build(spec, size, 7, 0)
    assert spec.multiply_adds(size) == counted(net, size) - net.head.weight.numel()


@pytest.mark.parametrize(
    "spec", [ResNet(18), ResNet(18, "full"), ResNet(50), ResNet(50, "full")], ids=lambda s: f"{s.depth}-{s.stem}"
)
def test_multiply_adds_of_resnets_are_about_right(spec):
    with torch.device("meta"):
        net = build(spec, 64, 10, 0).to("meta")
        assert spec.multiply_adds(64) == pytest.approx(counted(net, 64), rel=0.1)


@pytest.mark.parametrize("norm", [None, "none"])
def test_every_activation_starts_alive(norm):
    """At the start, each layer's outputs are of the same order of size as its inputs."""
    net = build(AlexNet((32, 48, 64, 64, 48), (128, 128), norm), 32, 10, 0).train()
    found = {}
    for name, m in net.named_children():
        m.register_forward_hook(lambda m, i, o, n=name: found.__setitem__(n, o.std().item()))
    net(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert all(0.3 < found[name] < 3 for name in found if name != "head")


# ------------------------------------------------------------------------------------------------ without BatchNorm


def test_without_batchnorm_convolutions_have_a_bias():
    plain, other = build(AlexNet((4, 6, 8, 8, 5), (12, 10), "none"), 24, 7, 0), build(SMALL, 24, 7, 0)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    convs = [m for m in plain.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 5
    assert all((m.bias == 0).all() for m in convs)
    assert all(m.bias is None for m in other.modules() if isinstance(m, nn.Conv2d))
    assert list(plain.state_dict()) == [n for n, _ in plain.named_parameters()]
    assert "conv1.conv.bias" in plain.state_dict()


def test_without_batchnorm_images_do_not_meet():
    """In training, what a network says of an image depends on no other, nor does looking change it."""
    net = build(AlexNet((4, 6, 8, 8, 5), (12, 10), "none"), 24, 7, 0).train()
    x = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x)[:1], net(x[:1]))
    assert torch.equal(net(x), net.eval()(x))


def test_norm_is_part_of_the_spec():
    assert AlexNet((4, 6, 8, 8, 5), (12, 10), None).key == SMALL.key
    assert '"norm"' not in SMALL.canonical
    plain = AlexNet((4, 6, 8, 8, 5), (12, 10), "none")
    assert plain.key != SMALL.key
    assert AlexNet.from_dict(plain.to_dict()) == plain
    assert plain.multiply_adds(64) == SMALL.multiply_adds(64)
    with pytest.raises(UserError, match=r"norm \(=batch\): must be none, or left out for BatchNorm"):
        AlexNet((4, 6, 8, 8, 5), (12, 10), "batch")


def test_a_part_of_a_network_is_a_chain_of_the_same_modules():
    net = build(SMALL, 24, 7, 0).eval()
    top = Chain(list(net.named_children())[-2:], net.head_name).eval()
    x = torch.randn(3, 12)
    assert torch.equal(top(x), net.head(net.fc7(x)))
    assert top.head is net.head
    assert top.head_name == "head"
