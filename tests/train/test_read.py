"""Logits and activations: of every image once, whatever the batches."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transferlab.data.augment import luma, normalise
from transferlab.data.images import Sample
from transferlab.errors import UserError
from transferlab.nets.build import build
from transferlab.nets.heads import add_head
from transferlab.nets.taps import kept_inputs
from transferlab.specs.networks import AlexNet, ResNet, Torchvision
from transferlab.train import read as module
from transferlab.train.read import inputs_of, pooled, predict, read, without_network

SMALL = AlexNet((8, 8, 8, 8, 8), (16, 12))


def noise(count: int, size: int = 16) -> Sample:
    """Images of noise; they are the last rows of their split, backwards."""
    pixels = torch.randint(
        0, 256, (count + 3, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
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
    whole, found = predict(net, sample), read(net, sample, ["conv3", "fc7"], grid=2)
    inputs = inputs_of(net, net.fc6, sample)
    monkeypatch.setattr(module, "BATCH", batch)
    assert torch.allclose(predict(net, sample), whole, atol=1e-5)
    split = read(net, sample, ["conv3", "fc7"], grid=2)
    assert all(torch.allclose(split[tap], found[tap], atol=1e-5) for tap in found)
    assert torch.allclose(inputs_of(net, net.fc6, sample), inputs, atol=1e-5)


def test_the_network_is_read_as_it_is():
    """No gradients, no batch statistics, no dropout, no change."""
    net = build(Torchvision("mobilenet_v2"), 32, 4, 0).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    first, again = predict(net, noise(3, 32)), predict(net.train(), noise(3, 32))
    assert torch.equal(first, again)
    assert torch.equal(read(net.train(), noise(3, 32), ["head"])["head"], first)
    assert not first.requires_grad
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("backbone", "size", "widths"),
    [
        (SMALL, 16, {"conv1": 8, "conv1_pre": 8, "pool5": 8, "fc6": 16, "fc7": 12, "representation": 12, "fc8": 4}),
        (ResNet(18), 16, {"layer2": 128, "avgpool": 512, "representation": 512, "head": 4}),
        (Torchvision("squeezenet1_0"), 32, {"features.3": 128, "representation": 512, "head": 4}),
    ],
    ids=["alexnet", "resnet", "squeezenet"],
)
def test_several_taps_in_one_pass(backbone, size, widths):
    net, sample = build(backbone, size, 4, 0), noise(3, size)
    passes = []
    handle = net.register_forward_hook(lambda *_: passes.append(1))
    together = read(net, sample, list(widths))
    assert len(passes) == 1
    handle.remove()
    assert {tap: tuple(x.shape) for tap, x in together.items()} == {tap: (3, width) for tap, width in widths.items()}
    for tap, x in together.items():
        assert x.dtype == torch.float32
        assert torch.equal(x, read(net, sample, [tap])[tap])


def test_maps_are_averaged_over_positions():
    net, sample = build(SMALL, 16, 4, 0), noise(4)
    got = read(net, sample, ["conv2", "fc8"])
    with torch.no_grad():
        x = normalise(sample.pixels[sample.rows])
        assert torch.allclose(got["conv2"], net.conv2(net.conv1(x)).mean((2, 3)), atol=1e-6)
    assert torch.equal(got["fc8"], predict(net, sample))


def test_unknown_layer():
    with pytest.raises(UserError, match=r"layer \(=fc9\): must be one of conv1_pre"):
        read(build(SMALL, 16, 4, 0), noise(2), ["fc7", "fc9"])


def test_half_precision_is_read_as_float32():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16**2, 4))
    net[1].register_forward_pre_hook(lambda m, inputs: inputs[0].bfloat16())
    net[1].bfloat16()
    assert predict(net, noise(2)).dtype == torch.float32


def test_pooling_maps_tokens_and_vectors():
    maps, tokens, vectors = torch.rand(2, 3, 4, 5), torch.rand(2, 6, 3), torch.rand(2, 3)
    assert torch.equal(pooled(maps), maps.flatten(2).mean(2)), "bit for bit: kept features depend on it"
    assert torch.equal(pooled(maps, 1, "max"), maps.amax((2, 3)))
    assert torch.equal(pooled(tokens), tokens.mean(1))
    assert torch.equal(pooled(tokens, 1, "max"), tokens.amax(1))
    for same in (vectors, maps, tokens):
        assert torch.equal(pooled(same, None), same)
    assert torch.equal(pooled(vectors, 3), vectors)


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize(
    ("backbone", "size", "tap", "units"),
    [
        (SMALL, 32, "conv5", 8),
        (ResNet(18), 16, "layer3", 256),
        (Torchvision("squeezenet1_0"), 64, "representation", 512),
    ],
    ids=["alexnet", "resnet", "squeezenet"],
)
def test_grids(backbone, size, tap, units, grid, pool):
    net, sample = build(backbone, size, 4, 0), noise(3, size)
    raw = read(net, sample, [tap], grid=None)[tap]
    assert raw.ndim == 4
    found = read(net, sample, [tap], grid, pool)[tap]
    adaptive = {"mean": F.adaptive_avg_pool2d, "max": F.adaptive_max_pool2d}[pool]
    assert (found.shape, found.dtype) == ((3, units * grid * grid), torch.float32)
    torch.testing.assert_close(found, adaptive(raw, grid).flatten(1))
    assert torch.equal(read(net, sample, [tap])[tap], raw.flatten(2).mean(2))


def test_tokens_of_a_transformer():
    net, sample = build(Torchvision("vit_b_32"), 224, 4, 0), noise(1, 224)
    raw = read(net, sample, ["encoder"], grid=None)["encoder"]
    assert raw.shape == (1, 50, 768)
    assert torch.equal(read(net, sample, ["encoder"], grid=2)["encoder"], raw.mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "avg"}, r"pool \(=avg\): must be one of mean, max"),
        ({"grid": 0}, r"grid \(=0\): must be a whole number above 0"),
        ({"grid": 1.5}, r"grid \(=1.5\): must be a whole number above 0"),
    ],
)
def test_no_such_pooling(options, message):
    with pytest.raises(UserError, match=message):
        read(build(SMALL, 16, 4, 0), noise(2), ["conv1"], **options)


def test_a_second_head_is_read_in_the_same_pass():
    net, sample = build(SMALL, 16, 4, 0), noise(3)
    second = add_head(net, "source_head", 6, seed=1)
    found = read(net, sample, ["fc8", "source_head", "representation"])
    assert torch.equal(found["fc8"], predict(net, sample))
    with torch.no_grad():
        torch.testing.assert_close(found["source_head"], second(found["representation"]))


@pytest.mark.parametrize("kind", ["alexnet", "mobilenet"])
def test_raw_inputs_of_a_module(kind):
    backbone, size = {"alexnet": (SMALL, 16), "mobilenet": (Torchvision("mobilenet_v2"), 32)}[kind]
    net, sample = build(backbone, size, 4, 0).train(), noise(3, size)
    module = net.conv3 if kind == "alexnet" else net.classifier
    got = inputs_of(net, module, sample)
    seen = []
    with torch.no_grad(), kept_inputs(module, seen.append):
        net.eval()(normalise(sample.pixels[sample.rows]))
    torch.testing.assert_close(got, seen[0])
    assert not got.requires_grad
    assert not got.is_inference(), "what is behind is trained on it"


def test_without_colour():
    net, sample = build(SMALL, 16, 4, 0), noise(5)
    grey = replace(sample, pixels=luma(sample.pixels).contiguous())
    asked = replace(sample, grey=True)
    assert torch.equal(predict(net, asked), predict(net, grey))
    assert torch.equal(read(net, asked, ["fc7"])["fc7"], read(net, grey, ["fc7"])["fc7"])
    assert torch.equal(inputs_of(net, net.fc6, asked), inputs_of(net, net.fc6, grey))
    assert not torch.allclose(predict(net, asked), predict(net, sample))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two devices")
def test_images_may_stay_on_the_host():
    net, sample = build(SMALL, 16, 4, 0), noise(5)
    expected = predict(net, sample)
    net = net.cuda()
    mixed = replace(sample, rows=sample.rows.cuda(), labels=sample.labels.cuda())
    for asked in (sample, mixed, sample.to(torch.device("cuda"))):
        assert predict(net, asked).device.type == "cuda"
        torch.testing.assert_close(predict(net, asked).cpu(), expected, rtol=1e-2, atol=1e-2)
        assert read(net, asked, ["conv2"])["conv2"].device.type == "cuda"


def test_images_without_a_network():
    sample = noise(5)
    pixels, colours = (without_network(sample, what) for what in ("pixels", "colours"))
    assert pixels.shape == (5, 3 * 16 * 16)
    assert torch.equal(pixels[0].view(3, 16, 16), sample.pixels[sample.rows[0]].permute(2, 0, 1) / 255)
    counts = torch.zeros(5, 64)
    for row, image in enumerate(sample.pixels[sample.rows]):
        for red, green, blue in image.flatten(0, 1).tolist():
            counts[row, red // 64 * 16 + green // 64 * 4 + blue // 64] += 1
    torch.testing.assert_close(colours, counts / 256)
    with pytest.raises(UserError, match=r"what \(=colour\): must be one of pixels, colours; did you mean colours\?"):
        without_network(sample, "colour")
