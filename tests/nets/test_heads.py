"""Second heads: `forward` does not know them, one pass answers for all, and they travel with the network."""

import copy

import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transferlab.nets.alexnet import Chain
from transferlab.nets.build import build, head_of, new_head
from transferlab.nets.grow import deepen, widen
from transferlab.nets.heads import add_head, logits
from transferlab.nets.taps import freeze, taps, train_mode
from transferlab.specs.networks import AlexNet, ResNet, Torchvision

SMALL = AlexNet((4, 6, 8, 8, 5), (12, 10))
BACKBONES = {
    "alexnet": (SMALL, 24),
    "plain": (AlexNet((4, 6, 8, 8, 5), (12, 10), "none"), 24),
    "resnet": (ResNet(18), 16),
    "squeezenet": (Torchvision("squeezenet1_0"), 64),
    "mobilenet": (Torchvision("mobilenet_v2"), 32),
    "vgg": (Torchvision("vgg11"), 32),
}
each_backbone = pytest.mark.parametrize(("backbone", "size"), BACKBONES.values(), ids=BACKBONES)


def images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@each_backbone
def test_forward_stays_as_it_was(backbone, size):
    net = build(backbone, size, 7, 0).eval()
    x, state = images(3, size), {k: v.clone() for k, v in net.state_dict().items()}
    before = net(x)
    second = add_head(net, "source_head", 4, seed=1)
    assert torch.equal(net(x), before)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in state.items())
    assert net.state_dict().keys() - state.keys() == {
        "second_heads.source_head.weight",
        "second_heads.source_head.bias",
    }
    assert type(second) is type(head_of(net)[2])
    assert second.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert (second.bias == 0).all()
    assert torch.equal(second.weight, new_head(net, 4, seed=1).weight), "drawn as the first one is"


@each_backbone
def test_logits_of_several_heads_in_one_pass(backbone, size):
    net, x = build(backbone, size, 7, 0).eval(), images(3, size)
    twin = copy.deepcopy(net)
    new_head(twin, 4, seed=1)
    add_head(net, "source_head", 4, seed=1)
    add_head(net, "third", 2, seed=2)
    passes = []
    handle = net.register_forward_hook(lambda *_: passes.append(1))
    own, source, third = logits(net, x, ("head", "source_head", "third"))
    assert len(passes) == 1
    assert torch.equal(own, net(x))
    assert torch.equal(source, twin(x)), "what a network says whose only head this is"
    assert third.shape == (3, 2)
    assert [v.shape[1] for v in logits(net, x, ("third", "source_head"))] == [2, 4]
    assert torch.equal(logits(net, x)[0], own)
    handle.remove()
    assert not any(m._forward_pre_hooks for m in net.modules())


@each_backbone
def test_both_heads_learn_and_share_the_backbone(backbone, size):
    net, x = build(backbone, size, 7, 0).eval(), images(3, size)
    add_head(net, "source_head", 4, seed=1)
    nn.init.normal_(net.second_heads["source_head"].weight)
    _, source = logits(net, x, ("head", "source_head"))
    (source * torch.randn(source.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert head_of(net)[2].weight.grad is None
    assert net.second_heads["source_head"].weight.grad.abs().sum() > 0
    assert next(net.parameters()).grad.abs().sum() > 0


@each_backbone
def test_saved_copied_and_loaded(backbone, size, tmp_path):
    net, x = build(backbone, size, 7, 0).eval(), images(2, size)
    add_head(net, "source_head", 4, seed=1)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = build(backbone, size, 7, 5).eval()
    add_head(other, "source_head", 4, seed=6)
    other.load_state_dict(torch.load(tmp_path / "net.pt"))
    names = ("head", "source_head")
    for again in (other, copy.deepcopy(net)):
        assert all(map(torch.equal, logits(again, x, names), logits(net, x, names)))
    with torch.no_grad():
        copy.deepcopy(net).second_heads["source_head"].weight.add_(1)
    assert all(map(torch.equal, logits(other, x, names), logits(net, x, names)))


@pytest.mark.parametrize("how", [widen, deepen], ids=["widen", "deepen"])
@pytest.mark.parametrize("kind", ["alexnet", "squeezenet", "mobilenet"])
def test_a_grown_network_gets_one_that_reads_all_units(kind, how):
    backbone, size = BACKBONES[kind]
    net, x = how(build(backbone, size, 7, 0), 6).eval(), images(2, size)
    before = net(x)
    second = add_head(net, "source_head", 4, seed=1)
    assert second.weight.shape[1] == head_of(net)[2].weight.shape[1]
    own, source = logits(net, x, ("head", "source_head"))
    assert torch.equal(own, before)
    assert source.shape == (2, 4)


def test_taps_know_it_and_freezing_leaves_it():
    net = build(SMALL, 24, 7, 0)
    add_head(net, "source_head", 4, seed=1)
    assert list(taps(net))[-5:] == ["fc7", "representation", "source_head", "fc8", "softmax"]
    freeze(net, "fc7")
    train_mode(net)
    assert {n.rpartition(".")[0] for n, p in net.named_parameters() if p.requires_grad} == {
        "head",
        "second_heads.source_head",
    }


def test_a_chain_of_children_leaves_it_out_too():
    net, x = build(SMALL, 24, 7, 0).eval(), torch.randn(3, 12)
    add_head(net, "source_head", 4, seed=1)
    top = Chain(list(net.named_children())[-3:], net.head_name)
    assert [n for n, _ in top.named_children()] == ["fc7", "head", "second_heads"]
    own, source = logits(top, x, ("head", "source_head"))
    assert torch.equal(own, net.head(net.fc7(x)))
    assert torch.equal(source, net.second_heads["source_head"](net.fc7(x)))


def test_under_autocast_all_heads_are_of_one_type():
    net = build(SMALL, 24, 7, 0)
    add_head(net, "source_head", 4, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert {v.dtype for v in logits(net, images(2, 24), ("head", "source_head"))} == {torch.bfloat16}


def test_an_exported_network_gives_the_same():
    net, x = build(SMALL, 24, 7, 0).eval(), images(2, 24)
    add_head(net, "source_head", 4, seed=1)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # of the exporter
def test_onnx_gives_the_same(tmp_path):
    net, x = build(SMALL, 24, 7, 0).eval(), images(2, 24)
    add_head(net, "source_head", 4, seed=1)
    torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False, input_names=["images"])
    (said,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(said), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_squeezenets_second_head_ends_like_the_first():
    net, x = build(Torchvision("squeezenet1_0"), 64, 7, 0).eval(), images(2, 64)
    second = add_head(net, "source_head", 4, seed=1)
    (said,) = logits(net, x, ("source_head",))
    torch.testing.assert_close(said, F.relu(second(net.features(x))).mean((2, 3)))
