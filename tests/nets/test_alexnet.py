"""The AlexNet family: what every image size and width gives, and the count of its arithmetic."""

import pytest
import torch
from torch import nn

from transferlab.backbones import AlexNet, ResNet, alexnet_geometry
from transferlab.nets.build import build

SMALL = AlexNet((4, 6, 8, 8, 5), (12, 10))


def shapes(net: nn.Module, size: int, count: int = 1) -> dict[str, torch.Size]:
    """Shape of what every layer puts out for images of zeros."""
    found = {}
    handles = [m.register_forward_hook(lambda m, i, o, n=name: found.__setitem__(n, o.shape)) for name, m in net.named_modules() if name]
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
    ("size", "side"), [(16, 2), (24, 3), (32, 4), (47, 6), (48, 3), (64, 4), (95, 6), (96, 3), (128, 4), (192, 5), (224, 6), (227, 6)]
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


def test_large_has_six_convolutions():
    large = AlexNet.named("large", factor=1 / 32)
    assert large.channels == (3, 8, 16, 16, 32, 32)
    net = build(large, 32, 7, 0)
    assert [name for name, _ in net.named_children() if name.startswith(("conv", "pool"))][-4:] == ["conv4", "conv5", "conv6", "pool6"]
    found = shapes(net, 32)
    assert (found["conv6"], found["pool6"], found["logits"]) == ((1, 32, 8, 8), (1, 32, 4, 4), (1, 7))


@pytest.mark.parametrize("channels", [(4, 6, 8, 8, 5), (4, 6, 8, 8, 5, 3), (4, 6, 8, 8, 5, 3, 2)])
@pytest.mark.parametrize("size", [24, 64, 96, 227])
def test_multiply_adds(size, channels):
    spec = AlexNet(channels, (12, 10))
    net = build(spec, size, 7, 0)
    assert spec.multiply_adds(size) == counted(net, size) - net.head.weight.numel()


@pytest.mark.parametrize("spec", [ResNet(18), ResNet(18, "full"), ResNet(50), ResNet(50, "full")], ids=lambda s: f"{s.depth}-{s.stem}")
def test_multiply_adds_of_resnets_are_about_right(spec):
    with torch.device("meta"):
        net = build(spec, 64, 10, 0).to("meta")
        assert spec.multiply_adds(64) == pytest.approx(counted(net, 64), rel=0.1)


def test_named_widths():
    tiny = AlexNet.named("tiny")
    assert (tiny.channels, tiny.hidden) == ((24, 64, 96, 96, 64), (4096, 1024))
    assert AlexNet.named("tiny", 0.5) == AlexNet((12, 32, 48, 48, 32), (2048, 512))
    assert AlexNet.named("tiny", 0.5, hidden=(9, 8)) == AlexNet((12, 32, 48, 48, 32), (9, 8))
    assert AlexNet.named("tiny", 1e-9) == AlexNet((1, 1, 1, 1, 1), (1, 1))


def test_every_activation_starts_alive():
    """At the start, each layer's outputs are of the same order of size as its inputs."""
    net = build(AlexNet((32, 48, 64, 64, 48), (128, 128)), 32, 10, 0).train()
    found = {}
    for name, m in net.named_children():
        m.register_forward_hook(lambda m, i, o, n=name: found.__setitem__(n, o.std().item()))
    net(torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert all(0.3 < found[name] < 3 for name in found if name != "head")
