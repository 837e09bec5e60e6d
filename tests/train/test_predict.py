"""Predictions and features: of every image once, whatever the batches."""

import pytest
import torch
from torch import nn

from transferlab.backbones import AlexNet, ResNet, Torchvision
from transferlab.data.augment import normalise
from transferlab.data.images import Sample
from transferlab.errors import UserError
from transferlab.nets.build import build
from transferlab.train import predict as module
from transferlab.train.predict import features, pooled, predict

SMALL = AlexNet((8, 8, 8, 8, 8), (16, 12))


def noise(count: int, size: int = 16) -> Sample:
    """Images of noise; they are the last rows of their split, backwards."""
    pixels = torch.randint(0, 256, (count + 3, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Sample(pixels, torch.arange(count + 2, 2, -1), torch.arange(count) % 4, 4)


def test_logits_in_the_order_of_the_sample():
    net, sample = build(SMALL, 16, 4, 0), noise(5)
    got = predict(net, sample)
    assert (got.shape, got.dtype) == ((5, 4), torch.float32)
    with torch.no_grad():
        one_by_one = torch.cat([net(normalise(sample.pixels[row][None])) for row in sample.rows])
    assert torch.allclose(got, one_by_one, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 99])
def test_batches_do_not_matter(monkeypatch, batch):
    net, sample = build(SMALL, 16, 4, 0), noise(5)
    whole, read = predict(net, sample), features(net, sample, ["conv3", "fc7"])
    monkeypatch.setattr(module, "BATCH", batch)
    assert torch.allclose(predict(net, sample), whole, atol=1e-5)
    split = features(net, sample, ["conv3", "fc7"])
    assert all(torch.allclose(split[tap], read[tap], atol=1e-5) for tap in read)


def test_the_network_is_read_as_it_is():
    """No gradients, no batch statistics, no dropout, no change."""
    net = build(Torchvision("mobilenet_v2"), 32, 4, 0).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    first, again = predict(net, noise(3, 32)), predict(net.train(), noise(3, 32))
    assert torch.equal(first, again)
    assert torch.equal(features(net.train(), noise(3, 32), ["head"])["head"], first)
    assert not first.requires_grad
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("backbone", "size", "widths"),
    [
        (SMALL, 16, {"conv1": 8, "conv1_pre": 8, "pool5": 8, "fc6": 16, "fc7": 12, "fc8": 4}),
        (ResNet(18), 16, {"layer2": 128, "avgpool": 512, "head": 4}),
        (Torchvision("squeezenet1_0"), 32, {"features.3": 128, "head": 4}),
    ],
    ids=["alexnet", "resnet", "squeezenet"],
)
def test_several_taps_in_one_pass(backbone, size, widths):
    net, sample = build(backbone, size, 4, 0), noise(3, size)
    passes = []
    handle = net.register_forward_hook(lambda *_: passes.append(1))
    together = features(net, sample, list(widths))
    assert len(passes) == 1
    handle.remove()
    assert {tap: tuple(x.shape) for tap, x in together.items()} == {tap: (3, width) for tap, width in widths.items()}
    for tap, x in together.items():
        assert x.dtype == torch.float32
        assert torch.equal(x, features(net, sample, [tap])[tap])


def test_maps_are_averaged_over_positions():
    net, sample = build(SMALL, 16, 4, 0), noise(4)
    got = features(net, sample, ["conv2", "fc8"])
    with torch.no_grad():
        x = normalise(sample.pixels[sample.rows])
        assert torch.allclose(got["conv2"], net.conv2(net.conv1(x)).mean((2, 3)), atol=1e-6)
    assert torch.equal(got["fc8"], predict(net, sample))


def test_unknown_layer():
    with pytest.raises(UserError, match=r"layer \(=fc9\): must be one of conv1_pre"):
        features(build(SMALL, 16, 4, 0), noise(2), ["fc7", "fc9"])


def test_half_precision_is_read_as_float32():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16**2, 4))
    net[1].register_forward_pre_hook(lambda m, inputs: inputs[0].bfloat16())
    net[1].bfloat16()
    assert predict(net, noise(2)).dtype == torch.float32


def test_pooling_maps_tokens_and_vectors():
    maps, tokens, vectors = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 3), torch.rand(2, 3)
    assert torch.allclose(pooled(maps), maps.mean((2, 3)))
    assert torch.allclose(pooled(tokens), tokens.mean(1))
    assert torch.equal(pooled(vectors), vectors)
