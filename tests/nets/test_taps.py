"""Reading layers by name, and keeping the first ones as they are."""

import pytest
import torch
from torch import nn

from transferlab.errors import UserError
from transferlab.nets.build import build, head_of, new_head
from transferlab.nets.grow import deepen, widen, widen_twice
from transferlab.nets.heads import add_head
from transferlab.nets.taps import batch_norm, freeze, kept_inputs, layers, reading, tap_module, taps, train_mode
from transferlab.specs.networks import AlexNet, ResNet, Torchvision

SMALL = AlexNet((4, 6, 8, 8, 5), (12, 10))
SHAPES = {  # of one image
    "alexnet": (
        SMALL,
        32,
        {
            "conv1": (4, 16, 16),
            "conv2": (6, 16, 16),
            "pool2": (6, 8, 8),
            "conv3": (8, 8, 8),
            "conv4": (8, 8, 8),
            "conv5": (5, 8, 8),
            "pool5": (5, 4, 4),
            "fc6": (12,),
            "fc7": (10,),
            "representation": (10,),
            "fc8": (7,),
            "softmax": (7,),
            **{f"conv{i}_pre": (c, s, s) for i, c, s in ((1, 4, 16), (2, 6, 16), (3, 8, 8), (4, 8, 8), (5, 5, 8))},
        },
    ),
    "resnet": (
        ResNet(18),
        16,
        {
            **dict.fromkeys(("conv1", "bn1", "relu", "maxpool", "layer1"), (64, 16, 16)),
            "layer2": (128, 8, 8),
            "layer3": (256, 4, 4),
            "layer4": (512, 2, 2),
            "avgpool": (512, 1, 1),
            "representation": (512,),
            "head": (7,),
            "softmax": (7,),
        },
    ),
    "squeezenet": (
        Torchvision("squeezenet1_0"),
        32,
        {"features.0": (96, 13, 13), "features.12": (512, 1, 1), "representation": (512, 1, 1), "head": (7, 1, 1)},
    ),
    "mobilenet": (
        Torchvision("mobilenet_v2"),
        32,
        {
            "features.0": (32, 16, 16),
            "features.18": (1280, 1, 1),
            "representation": (1280,),
            "head": (7,),
            "softmax": (7,),
        },
    ),
}
each = pytest.mark.parametrize(("backbone", "size", "shapes"), SHAPES.values(), ids=SHAPES)


def images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@each
def test_every_tap_can_be_read(backbone, size, shapes):
    net = build(backbone, size, 7, 0).eval()
    known = taps(net)
    assert set(shapes) <= set(known)
    if "features.0" not in shapes:
        assert set(shapes) == set(known)
    with torch.no_grad(), reading(net, known) as found:
        logits = net(images(2, size))
    if "softmax" in known:
        assert torch.allclose(found["softmax"], logits.softmax(1))
    assert list(found) == [t for t in known if t in found]  # in order
    assert found.keys() == known.keys()
    assert {tap: tuple(found[tap].shape[1:]) for tap in shapes} == shapes
    last = found["fc8" if "fc8" in known else "head"].flatten(1)
    assert torch.equal(last if "squeezenet" not in getattr(backbone, "name", "") else last.relu(), logits)


def test_taps_in_order():
    assert list(taps(build(SMALL, 64, 7, 0))) == [
        *("conv1_pre", "conv1", "pool1", "conv2_pre", "conv2", "pool2", "conv3_pre", "conv3", "conv4_pre", "conv4"),
        *("conv5_pre", "conv5", "pool5", "fc6", "fc7", "representation", "fc8", "softmax"),
    ]


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_torchvisions_own_alexnet_and_vgg_have_fc6_and_fc7(name):
    net = build(Torchvision(name), 64, 7, 0).eval()
    with torch.no_grad(), reading(net, ("fc6", "fc7", "head")) as found:
        logits = net(images(2, 64))
    assert found["fc6"].shape == found["fc7"].shape == (2, 4096)
    assert found["fc6"].min() == found["fc7"].min() == 0
    assert torch.equal(found["head"], logits)


def test_before_and_after_relu():
    net = build(SMALL, 32, 7, 0).eval()
    wanted = [f"conv{i}{part}" for i in range(1, 6) for part in ("_pre", "")]
    with torch.no_grad(), reading(net, (*wanted, "fc6", "fc7", "fc8")) as found:
        net(images(4, 32))
    for i in range(1, 6):
        before, after = found[f"conv{i}_pre"], found[f"conv{i}"]
        assert before.min() < 0
        assert after.min() == 0
        assert torch.equal(before.relu(), after)
    assert found["fc6"].min() >= 0
    assert found["fc7"].min() >= 0
    assert found["fc8"].min() < 0


def test_reading_changes_nothing_and_leaves_nothing_behind():
    net = build(SMALL, 32, 7, 0).eval()
    before = net(images(2, 32))
    with reading(net, ("conv1_pre", "fc7")) as found:
        assert torch.equal(net(images(2, 32)), before)
    found.clear()
    net(images(2, 32))
    assert found == {}
    assert not any(m._forward_hooks for m in net.modules())


def test_hooks_go_also_after_an_error():
    net = build(SMALL, 32, 7, 0).eval()
    with pytest.raises(RuntimeError), reading(net, ("conv1",)):
        net(torch.zeros(1, 5, 32, 32))
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("kind", "tap", "message"),
    [
        ("alexnet", "conv6", r"layer \(=conv6\): must be one of conv1_pre, conv1, .* and 5 more; did you mean conv"),
        ("alexnet", "fc9", r"did you mean fc"),
        ("alexnet", "head", r"layer \(=head\): must be one of"),
        ("resnet", "layer5", r"layer \(=layer5\): must be one of conv1, bn1, .*; did you mean layer"),
        (
            "squeezenet",
            "features.13",
            r"layer \(=features.13\): must be one of features.0, .*; did you mean features.\d",
        ),
    ],
)
def test_unknown_layer(kind, tap, message):
    backbone, size, _ = SHAPES[kind]
    net = build(backbone, size, 7, 0)
    for use in (tap_module, freeze):
        with pytest.raises(UserError, match=message):
            use(net, tap)


# --------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("backbone", "wanted"),
    [
        (SMALL, ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]),
        (ResNet(18), ["conv1+bn1", "layer1", "layer2", "layer3", "layer4"]),
        (Torchvision("squeezenet1_0"), [f"features.{i}" for i in (0, 3, 4, 5, 7, 8, 9, 10, 12)]),
        (Torchvision("mobilenet_v2"), [f"features.{i}" for i in range(19)]),
        (
            Torchvision("vgg11"),
            [*(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), "classifier.0", "classifier.3"],
        ),
    ],
)
def test_layers_are_in_order_and_hold_all_but_the_head(backbone, wanted):
    with torch.device("meta"):
        net = build(backbone, 32, 4, 0)
    names = {id(module): name for name, module in net.named_modules()}
    assert ["+".join(names[id(part)] for part in layer) for layer in layers(net)] == wanted
    held = [p for layer in layers(net) for part in layer for p in part.parameters()]
    assert {*map(id, held)} == {*map(id, net.parameters())} - {*map(id, head_of(net)[2].parameters())}


def test_layers_of_a_grown_network_with_a_second_head():
    net = deepen(widen(build(SMALL, 24, 4, 0), 6), 5)
    add_head(net, "source_head", 3, 1)
    last = {n for part in layers(net)[-1] for n, m in net.named_modules() if m is part}
    assert (len(layers(net)), last) == (8, {"head.new", "head.new_norm"})


def test_a_network_with_parameters_outside_of_layers():
    with torch.device("meta"):
        net = build(Torchvision("vit_b_16"), 224, 4, 0)
    with pytest.raises(UserError, match=r"network \(=VisionTransformer\): has parameters outside of layers"):
        layers(net)


# --------------------------------------------------------------------------------------------------------- freeze


def after_training(net: nn.Module, size: int, steps: int = 3) -> tuple[set[str], set[str]]:
    """Train a few steps; return the names in the state dict that stayed as they were, and those that changed."""
    before = {k: v.clone() for k, v in net.state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    train_mode(net)
    sgd = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for _ in range(steps):
        x = torch.randn(8, 3, size, size, generator=draw)
        sgd.zero_grad()
        nn.functional.cross_entropy(net(x), torch.arange(8) % 4).backward()
        sgd.step()
    after = net.state_dict()
    stayed = {k for k in before if torch.equal(before[k], after[k])}
    return stayed, before.keys() - stayed


@pytest.mark.parametrize(
    ("last", "kept"),
    [
        ("conv1_pre", ("conv1",)),
        ("conv1", ("conv1",)),
        ("conv3", ("conv1", "conv2", "conv3")),
        ("pool5", ("conv1", "conv2", "conv3", "conv4", "conv5")),
        ("fc6", ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6")),
        ("fc7", ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")),
    ],
)
def test_freeze_alexnet(last, kept):
    net = build(AlexNet((8, 8, 8, 8, 8), (16, 16)), 24, 4, 0)
    freeze(net, last)
    new_head(net, 4, 1)
    stayed, changed = after_training(net, 24)
    assert {k.split(".")[0] for k in stayed} == set(kept)
    assert not {k.split(".")[0] for k in changed} & set(kept)
    assert {"head.weight", "head.bias"} <= changed
    for name, m in net.named_modules():
        if isinstance(m, nn.BatchNorm2d):
            assert m.training == (name.split(".")[0] not in kept)
    assert all(p.requires_grad == (name.split(".")[0] not in kept) for name, p in net.named_parameters())


@pytest.mark.parametrize(
    ("last", "kept"),
    [("bn1", "conv1 bn1"), ("layer2", "conv1 bn1 layer1 layer2"), ("layer4", "conv1 bn1 layer1 layer2 layer3 layer4")],
)
def test_freeze_resnet(last, kept):
    net = build(ResNet(18), 16, 4, 0)
    freeze(net, last)
    stayed, changed = after_training(net, 16)
    assert {k.split(".")[0] for k in stayed} == set(kept.split())
    assert not {k.split(".")[0] for k in changed} & set(kept.split())


def test_freeze_squeezenet():
    net = build(Torchvision("squeezenet1_0"), 32, 4, 0)
    freeze(net, "features.5")
    stayed, changed = after_training(net, 32)
    assert {int(k.split(".")[1]) for k in stayed} <= set(range(6))
    assert "classifier.1.weight" in changed
    assert not {k for k in changed if k.startswith("features") and int(k.split(".")[1]) <= 5}


def test_freezing_everything_leaves_the_new_head():
    net = build(SMALL, 24, 4, 0)
    freeze(net, "fc8")
    new_head(net, 4, 1)
    assert after_training(net, 24)[1] == {"head.weight", "head.bias"}


def test_without_freezing_everything_trains():
    net = build(AlexNet((8, 8, 8, 8, 8), (16, 16)), 24, 4, 0)
    assert after_training(net, 24)[0] == set()


def test_dropout_in_frozen_layers_rests():
    net = build(Torchvision("squeezenet1_0"), 32, 4, 0)
    train_mode(net)
    assert all(m.training for m in net.modules())
    freeze(net, "head")
    train_mode(net)
    assert not net.classifier[0].training
    assert isinstance(net.classifier[0], nn.Dropout)


def test_freezing_up_to_the_representation_leaves_the_head():
    for net, head in ((build(SMALL, 24, 4, 0), "head"), (build(ResNet(18), 16, 4, 0), "fc")):
        freeze(net, "representation")
        assert [n for n, p in net.named_parameters() if p.requires_grad] == [f"{head}.weight", f"{head}.bias"]
        assert after_training(net, 24)[1] == {f"{head}.weight", f"{head}.bias"}


# ------------------------------------------------------------------------------------------------------ BatchNorm


NORMS = {"alexnet": (AlexNet((8, 8, 8, 8, 8), (16, 16)), 24), "resnet": (ResNet(18), 16)}


def norms(net: nn.Module) -> tuple[set[str], set[str]]:
    """Names of BatchNorm's statistics and of its parameters."""
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    return tuple(
        {f"{n}.{k}" for n, m in layers for k, _ in found(m)}
        for found in (nn.Module.named_buffers, nn.Module.named_parameters)
    )


@pytest.mark.parametrize("mode", [None, "train", "statistics", "frozen", "stochastic"])
@pytest.mark.parametrize(("backbone", "size"), NORMS.values(), ids=NORMS)
def test_batchnorm_modes(backbone, size, mode):
    net = build(backbone, size, 4, 0)
    statistics, affine = norms(net)
    batch_norm(net, mode)
    stayed, changed = after_training(net, size)
    others = net.state_dict().keys() - statistics - affine
    assert stayed & statistics == (statistics if mode in ("statistics", "frozen") else set())
    assert changed & affine == (set() if mode == "frozen" else affine)
    assert others <= changed


def test_kept_statistics_are_used():
    """In training such a network says what it says in evaluation, whatever else is in the batch."""
    net = build(NORMS["alexnet"][0], 24, 4, 0)
    after_training(net, 24)
    batch_norm(net, "statistics")
    train_mode(net)
    x = images(5, 24)
    torch.testing.assert_close(net(x)[:2], net.eval()(x[:2]))


def test_batchnorm_that_growth_put_in_learns():
    net = widen(build(SMALL, 32, 4, 0), 6, norm="batch")
    batch_norm(net, "frozen")
    statistics, affine = norms(net)
    stayed, _ = after_training(net, 32)
    assert stayed == {n for n in statistics | affine if ".new_norm" not in n}


def test_batchnorm_modes_leave_frozen_layers_frozen():
    for mode in (None, "statistics", "frozen"):
        net = build(NORMS["alexnet"][0], 24, 4, 0)
        freeze(net, "conv3")
        batch_norm(net, mode)
        stayed, _ = after_training(net, 24)
        assert {k for k in net.state_dict() if k.startswith(("conv1", "conv2", "conv3"))} <= stayed


def test_no_such_batchnorm_mode():
    with pytest.raises(
        UserError, match=r"batch_norm \(=freeze\): must be one of train, .*, stochastic; did you mean frozen\?"
    ):
        batch_norm(build(SMALL, 24, 4, 0), "freeze")


# ------------------------------------------------------------------------------------ what the head reads, second heads


@pytest.mark.parametrize(
    "grow", [lambda n: n, lambda n: widen(n, 6), lambda n: deepen(n, 6), lambda n: deepen(widen(n, 5), 6)]
)
@pytest.mark.parametrize("name", [None, "resnet18", "squeezenet1_0", "mobilenet_v2", "vgg11"])
def test_the_representation_is_what_the_head_reads(name, grow):
    net = grow(build(Torchvision(name) if name else SMALL, 64, 7, 0)).eval()
    add_head(net, "source_head", 3, 1)
    last = "fc8" if name is None else "head"
    with torch.no_grad(), reading(net, ("representation", "source_head", last)) as found:
        net(images(2, 64))
        _, _, head = head_of(net)
        assert torch.equal(head(found["representation"]), found[last])
        assert torch.equal(net.second_heads["source_head"](found["representation"]), found["source_head"])
        assert tap_module(net, "representation") is head
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_representation_of_alexnet_is_fc7_until_it_grows():
    net = build(SMALL, 32, 7, 0).eval()
    for grown, same in ((net, True), (widen_twice(net, (3, 7)).eval(), True), (deepen(net, 5).eval(), False)):
        with torch.no_grad(), reading(grown, ("fc7", "representation")) as found:
            grown(images(2, 32))
        assert torch.equal(found["fc7"], found["representation"]) == same


def test_there_is_no_source_head_unless_one_was_added():
    with pytest.raises(UserError, match=r"layer \(=source_head\): must be one of"):
        tap_module(build(SMALL, 24, 4, 0), "source_head")


def test_without_batchnorm_taps_stand_before_and_after_relu():
    net = build(AlexNet((4, 6, 8, 8, 5), (12, 10), "none"), 32, 7, 0).eval()
    assert list(taps(net)) == list(taps(build(SMALL, 32, 7, 0)))
    with torch.no_grad(), reading(net, ("conv2_pre", "conv2")) as found:
        net(images(2, 32))
    assert found["conv2_pre"].min() < 0
    assert torch.equal(found["conv2_pre"].relu(), found["conv2"])
    freeze(net, "conv2_pre")
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {f"conv{i}.conv.{k}" for i in (1, 2) for k in ("weight", "bias")}


def test_kept_inputs_are_kept_while_it_lasts():
    net, seen = build(SMALL, 32, 7, 0).eval(), []
    with kept_inputs(net.fc7, seen.append):
        net(images(2, 32))
        net(images(3, 32))
    net(images(4, 32))
    assert [tuple(x.shape) for x in seen] == [(2, 12), (3, 12)]
