"""Networks from specs, heads, and weights of others."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from transferlab.errors import UserError
from transferlab.nets.build import build, head_name, name_head, new_head, pretrained
from transferlab.nets.weights import fit_state
from transferlab.paths import file_fingerprint, weights_root
from transferlab.specs.data import Weights
from transferlab.specs.networks import AlexNet, ResNet, Torchvision

SMALL = AlexNet((4, 6, 8, 8, 5), (12, 10))
BACKBONES = {
    "alexnet": (SMALL, 24),
    "resnet": (ResNet(18), 16),
    "squeezenet": (Torchvision("squeezenet1_0"), 32),
    "mobilenet": (Torchvision("mobilenet_v2"), 32),
}
each_backbone = pytest.mark.parametrize(("backbone", "size"), BACKBONES.values(), ids=BACKBONES)


def equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@each_backbone
def test_a_seed_gives_the_same_weights_and_leaves_no_trace(backbone, size):
    state = torch.get_rng_state()
    net = build(backbone, size, 5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert equal(net, build(backbone, size, 5, seed=3))
    assert not equal(net, build(backbone, size, 5, seed=4))
    assert net.eval()(torch.zeros(2, 3, size, size)).shape == (2, 5)
    torch.set_rng_state(state)


def test_small_stem():
    small, full = build(ResNet(18, "small"), 32, 10, 0), build(ResNet(18, "full"), 32, 10, 0)
    assert (small.conv1.kernel_size, small.conv1.stride, type(small.maxpool)) == ((3, 3), (1, 1), nn.Identity)
    assert (full.conv1.kernel_size, full.conv1.stride, type(full.maxpool)) == ((7, 7), (2, 2), nn.MaxPool2d)
    assert small.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


def test_depth():
    assert len(build(ResNet(50), 32, 10, 0).layer3) == 6


@pytest.mark.parametrize("name", ["squeezenet1", "fcn_resnet50", "quantized_resnet18", ""])
def test_no_such_network(name):
    with pytest.raises(
        UserError, match=rf"backbone \(={name}\): must be one of alexnet, convnext_base, .* and \d+ more"
    ):
        build(Torchvision(name), 64, 5, 0)


# ---------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("kind", "head"),
    [("alexnet", "head"), ("resnet", "fc"), ("squeezenet", "classifier.1"), ("mobilenet", "classifier.1")],
)
def test_head_name(kind, head):
    assert head_name(build(*BACKBONES[kind], 5, 0)) == head


def test_no_head():
    with pytest.raises(
        UserError, match=r"network \(=Sequential\): has no linear or convolutional layer that could be its head"
    ):
        name_head(nn.Sequential(nn.ReLU()))
    with pytest.raises(UserError, match=r"network \(=Sequential\): does not name its head; see nets.build.name_head"):
        head_name(nn.Sequential(nn.Linear(2, 2)))


def test_a_network_from_elsewhere_says_which_layer_its_head_is():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    assert head_name(name_head(net)) == "3"
    net.head_name = "1"
    assert new_head(net, 6, seed=1) is net[1]


@each_backbone
def test_new_head(backbone, size):
    net = build(backbone, size, 5, 0)
    body = {k: v.clone() for k, v in net.state_dict().items() if not k.startswith(f"{head_name(net)}.")}
    kind = type(net.get_submodule(head_name(net)))
    head = new_head(net, 400, seed=1)
    assert net.get_submodule(head_name(net)) is head
    assert type(head) is kind
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert abs(head.weight.mean().item()) < 0.001
    assert (head.bias == 0).all()
    assert net.eval()(torch.zeros(2, 3, size, size)).shape == (2, 400)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in body.items())


@each_backbone
def test_a_new_head_depends_on_its_seed_alone(backbone, size):
    one, two = build(backbone, size, 5, 0), build(backbone, size, 9, 1)
    first = new_head(one, 6, seed=1).weight.clone()
    assert torch.equal(new_head(two, 6, seed=1).weight, first)
    assert not torch.equal(new_head(two, 6, seed=2).weight, first)


# --------------------------------------------------------------------------------------------- weights of others


def kept(net: nn.Module, name: str) -> Weights:
    """Write a network's weights to a file and name it by its content."""
    path = weights_root() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict(), path)
    return Weights(f"file:{name}", file_fingerprint(path))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@each_backbone
def test_weights_from_a_file(backbone, size, suffix):
    net = build(backbone, size, 7, seed=9)
    weights = kept(net, f"net.{suffix}")
    again = pretrained(weights, backbone, size)
    assert equal(again, net)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.eval()(image), net.eval()(image))


def test_half_precision_becomes_whole(tmp_path):
    net = build(SMALL, 24, 7, 0)
    weights = kept(build(SMALL, 24, 7, 0).half(), "net.safetensors")
    again = pretrained(weights, SMALL, 24)
    assert again.head.weight.dtype == torch.float32
    assert torch.allclose(again.head.weight, net.head.weight, atol=1e-3)
    assert again.conv1.norm.num_batches_tracked.dtype == torch.int64


def test_a_path_will_do(tmp_path):
    net = build(SMALL, 24, 7, 0)
    save_file(net.state_dict(), tmp_path / "elsewhere.safetensors")
    name = f"file:{tmp_path}/elsewhere.safetensors"
    assert equal(pretrained(Weights(name, file_fingerprint(tmp_path / "elsewhere.safetensors")), SMALL, 24), net)


def test_no_such_file():
    with pytest.raises(
        UserError, match=r"weights \(=.*/net.pt\): there is no such file; set TRANSFERLAB_WEIGHTS to the folder"
    ):
        pretrained(Weights("file:net.pt", "0"), SMALL, 24)


def test_another_file_than_the_one_that_was_named():
    found = kept(build(SMALL, 24, 7, 0), "net.pt").fingerprint
    with pytest.raises(UserError, match=rf"file:net.pt fingerprint \(={found}\): the trials name 0123"):
        pretrained(Weights("file:net.pt", "0123"), SMALL, 24)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_half_a_file(suffix, share):
    kept(build(SMALL, 24, 7, 0), f"net.{suffix}")
    path = weights_root() / f"net.{suffix}"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"weights \(=.*\): cannot be read as a state dict \(.+\)$"):
        pretrained(Weights(f"file:net.{suffix}", file_fingerprint(path)), SMALL, 24)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (AlexNet((4, 6, 8, 8, 5), (12, 11)), r"\(2 tensors differ; fc7.linear.bias, \(10,\) for \(11,\)\)"),
        (AlexNet((4, 6, 8, 8, 5, 5), (12, 10)), r"\(5 tensors differ; conv6.conv.weight is only in the network\)"),
        (Torchvision("squeezenet1_0"), r"\(\d+ tensors differ; conv1.conv.weight is only in the file\)"),
    ],
    ids=["other width", "other depth", "other family"],
)
def test_weights_of_another_architecture(backbone, message):
    weights = kept(build(SMALL, 24, 7, 0), "net.pt")
    with pytest.raises(UserError, match=rf"weights \(=file:net.pt\): of another architecture {message}"):
        pretrained(weights, backbone, 24)


def test_weights_with_more_in_them():
    net = build(SMALL, 24, 7, 0)
    state = net.state_dict()
    with pytest.raises(
        UserError, match=r"weights \(=mine\): of another architecture \(1 tensors differ; extra is only in the file\)"
    ):
        fit_state(net, state | {"extra": torch.zeros(1)}, "mine")


@pytest.mark.parametrize(
    ("name", "backbone", "message"),
    [
        ("http:x", SMALL, r"weights \(=http\): must be one of file, torchvision"),
        (
            "torchvision:IMAGENET1K_V1",
            SMALL,
            r"weights \(=torchvision:IMAGENET1K_V1\): belong to torchvision's own networks",
        ),
        (
            "torchvision:IMAGENET1K_V3",
            ResNet(18, "full"),
            r"weights \(=IMAGENET1K_V3\): must be one of IMAGENET1K_V1; did you mean",
        ),
        (
            "torchvision:IMAGENET1K",
            Torchvision("mobilenet_v2"),
            r"must be one of IMAGENET1K_V1, IMAGENET1K_V2; did you mean",
        ),
    ],
)
def test_no_such_weights(name, backbone, message):
    with pytest.raises(UserError, match=message):
        pretrained(Weights(name, "0"), backbone, 64)


def test_torchvisions_own_weights(monkeypatch):
    """Without the network: whatever torchvision hands out is what comes back."""
    net = build(Torchvision("squeezenet1_0"), 64, 1000, 0)
    asked = []
    monkeypatch.setattr("torchvision.models.get_model", lambda name, weights: (asked.append((name, weights)), net)[1])
    del net.head_name
    assert pretrained(Weights("torchvision:IMAGENET1K_V1", "0"), Torchvision("squeezenet1_0"), 64) is net
    assert asked == [("squeezenet1_0", "IMAGENET1K_V1")]
    assert np.prod(net.get_submodule(head_name(net)).weight.shape) == 512000
