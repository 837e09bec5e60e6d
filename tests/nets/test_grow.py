"""Growth surgery: what is old stays, what is new is read, trained and scaled, and the given network is left alone."""

import copy

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from transferlab.errors import UserError
from transferlab.nets.blocks import BlockScale
from transferlab.nets.build import build, head_name, head_of
from transferlab.nets.grow import (
    GROWTH_OPERATIONS,
    deepen,
    new_modules,
    normalised,
    train_only,
    widen,
    widen_and_deepen,
    widen_twice,
)
from transferlab.nets.heads import add_head
from transferlab.nets.sites import sites
from transferlab.nets.taps import freeze, taps, train_mode
from transferlab.specs.networks import AlexNet, Torchvision

SMALL = AlexNet((4, 4, 6, 6, 4), (12, 10))
SIZE, CLASSES = 32, 5
GROW = {
    "widen": lambda net, **k: widen(net, 7, **k),
    "widen_twice": lambda net, **k: widen_twice(net, (3, 7), **k),
    "deepen": lambda net, **k: deepen(net, 8, **k),
    "widen_and_deepen": lambda net, **k: widen_and_deepen(net, (7, 6), **k),
    "normalised": normalised,
}
several = st.integers(3, 9)  # a block of one unit has no direction that its norm leaves


def alexnet(spec: AlexNet = SMALL, seed: int = 0) -> nn.Module:
    return build(spec, SIZE, CLASSES, seed)


def images(count: int = 4, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def with_second_head(net: nn.Module) -> nn.Module:
    add_head(net, "source_head", 3, 0)
    return net


def torchvision_net(name: str) -> nn.Module:
    return build(Torchvision(name), 64, CLASSES, 0)


@pytest.mark.parametrize("how", GROW)
def test_the_given_network_is_left_as_it_was_and_shares_nothing(how):
    net = alexnet()
    before = copy.deepcopy(net.state_dict())
    grown = GROW[how](net)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    own = {p.data_ptr() for p in net.parameters()}
    assert not own & {p.data_ptr() for p in grown.parameters()}
    assert len({p.data_ptr() for p in grown.parameters()}) == len(list(grown.parameters()))


@pytest.mark.parametrize("how", GROW)
def test_old_parameters_keep_their_names_and_values(how):
    net = alexnet()
    grown = GROW[how](net).state_dict()
    for name, value in net.state_dict().items():
        if not name.startswith("head"):
            assert torch.equal(grown[name], value), name
    added = [name for name in grown if name not in net.state_dict()]
    assert all(".new" in name or name.startswith("head") for name in added)


@pytest.mark.parametrize("how", GROW)
def test_a_state_dict_of_the_old_network_fits(how):
    old, grown = alexnet(seed=3), GROW[how](alexnet())
    state = {k: v for k, v in old.state_dict().items() if not k.startswith("head")}
    missing, unexpected = grown.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(".new" in name or name.startswith("head") for name in missing)
    with pytest.raises(RuntimeError, match="size mismatch"):
        grown.load_state_dict(build(AlexNet((4, 4, 6, 6, 4), (12, 11)), SIZE, CLASSES, 0).state_dict(), strict=False)


@given(
    first=several,
    second=several,
    new=st.tuples(several, several),
    norm=st.sampled_from(["l2", "none", "batch", "layer"]),
    how=st.sampled_from(list(GROW)),
)
def test_every_new_unit_is_trained(first, second, new, norm, how):
    net = alexnet(AlexNet((4, 4, 4, 4, 4), (first, second)))
    options = {"scale": 1.0} | ({} if how == "normalised" else {"norm": norm})
    grown = {
        "widen": lambda: widen(net, new[0], **options),
        "widen_twice": lambda: widen_twice(net, new, **options),
        "deepen": lambda: deepen(net, new[0], **options),
        "widen_and_deepen": lambda: widen_and_deepen(net, new, **options),
        "normalised": lambda: normalised(net, **options),
    }[how]()
    with torch.no_grad():  # no dead units: what is asked here is whether gradients have a way
        for module in grown.modules():
            if isinstance(module, nn.Linear):
                module.weight.abs_()
                module.bias.fill_(50.0)
    nn.init.normal_(grown.get_submodule(head_name(grown)).weight)
    out = grown(images(6))
    assert out.shape == (6, CLASSES)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for module in new_modules(grown):
        for p in module.parameters():
            assert p.grad is not None
            if p.ndim > 1:
                assert (p.grad.flatten(1).abs().sum(1) > 0).all(), "a unit without a gradient"


def test_blocks_are_scaled_as_in_equations_1_and_2():
    layer = BlockScale([2, 3], scale=10.0)
    with torch.no_grad():
        layer.gain[1].copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, 2.0, 2.0]], requires_grad=True)
    out = layer(x)
    torch.testing.assert_close(
        out, torch.tensor([[6.0, 8.0, 0.0, 0.0, 3.0], [0.0, 0.0, 1 / 3, 4 / 3, 2.0]]), rtol=1e-5, atol=1e-6
    )
    out.sum().backward()
    assert x.grad.isfinite().all(), "an all-zero block has a finite gradient"
    maps = layer(x.detach()[:, :, None, None].expand(-1, -1, 2, 2))
    torch.testing.assert_close(maps[:, :, 1, 0], out.detach())


def test_old_units_read_old_inputs_only():
    """New units of FC6 change nothing for the old units of FC7 (figure 2 of the paper)."""
    net = alexnet().eval()
    grown = widen_twice(net, (3, 7), norm="none").eval()
    before = grown.fc7(grown.fc6(torch.ones(2, net.fc6.linear.in_features)))
    with torch.no_grad():
        grown.fc6.linear.new[0].weight.add_(1)
    after = grown.fc7(grown.fc6(torch.ones(2, net.fc6.linear.in_features)))
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10:], after[:, 10:])


def test_copied_units_are_near_those_they_copy():
    net = alexnet()
    new = widen(net, 20, init="copy").fc7.linear.new[0].weight
    distance = torch.cdist(new, net.fc7.linear.weight).min(1).values
    typical = torch.cdist(net.fc7.linear.weight, net.fc7.linear.weight).mean()
    assert (distance > 0).all()
    assert distance.max() < typical / 2


@pytest.mark.parametrize("layers", [2, 3])
def test_a_grown_network_grows_again(layers):
    """By the default seed, with units as many as before: every block is drawn anew, and earlier ones are old units."""
    net = alexnet()
    for step in range(layers):
        net = widen(net, 6)
        net.fc7.relu.new_norm.gain[step].data.fill_(3.0 + step)
    assert net.fc7.linear.blocks == [10, *[6] * layers]
    blocks = [block.weight.flatten() for block in net.fc7.linear.new]
    assert torch.stack(blocks).corrcoef().fill_diagonal_(0).abs().max() < 0.5, "blocks are drawn apart"
    gains = [gain.unique().tolist() for gain in net.fc7.relu.new_norm.gain]
    assert gains == [*([3.0 + step] for step in range(layers)), [20.0]], (
        "gains that were learned are kept, those of new blocks too"
    )
    assert net(images()).shape == (4, CLASSES)
    assert deepen(net, 6)(images()).shape == (4, CLASSES)
    assert deepen(deepen(net, 6), 5)(images()).shape == (4, CLASSES)


@pytest.mark.parametrize("how", GROW)
def test_what_has_grown_is_normalised_block_by_block(how):
    """Its own norm, with gains that were learned, or one in place of another; never two, one behind the other."""
    for make, size in ((alexnet, SIZE), (lambda: torchvision_net("squeezenet1_0"), 64)):
        if make is not alexnet and how == "widen_twice":
            continue
        grown = GROW[how](make())
        for norm in (m for m in grown.modules() if isinstance(m, BlockScale)):
            nn.init.constant_(norm.gain[0], 3.0)
        found = normalised(grown)
        before, after = ([m for m in net.modules() if isinstance(m, BlockScale)] for net in (grown, found))
        assert len(after) == len(before) + (make is alexnet and how == "deepen")
        assert [len(m.gain) for m in before] == [len(m.gain) for m in after[-len(before) :]]
        assert all((m.gain[0] == 3).all() for m in after[-len(before) :])
        assert found(images(2, size)).shape == (2, CLASSES)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_another_norm_makes_way(norm):
    net = normalised(widen(alexnet(), 7, norm=norm))
    assert isinstance(net.fc7.relu.new_norm, BlockScale)
    assert [len(gain) for gain in net.fc7.relu.new_norm.gain] == [10, 7]


def test_a_normalised_network_is_widened():
    net = normalised(torchvision_net("squeezenet1_0"))
    nn.init.constant_(net.classifier[1].new_norm.gain[0], 3.0)
    grown = widen(net, 6)
    assert list(grown.classifier[1]._modules) == ["units", "new_norm", "head"]
    assert [gain.unique().tolist() for gain in grown.classifier[1].new_norm.gain] == [[3.0], [20.0]]
    assert grown(images(2, 64)).shape == (2, CLASSES)


AGAIN = {  # on what has grown already: what is new, without the head
    "widen": (
        lambda net: widen(widen(net, 4), 4),
        ["fc7.linear.new.1.weight", "fc7.linear.new.1.bias", "fc7.relu.new_norm.gain.2"],
    ),
    "deepen": (
        lambda net: deepen(widen(net, 4), 4),
        ["head.new.linear.weight", "head.new.linear.bias", "head.new_norm.gain.0"],
    ),
    "both": (
        lambda net: widen_and_deepen(widen(net, 4, norm="none"), (4, 4), norm="none"),
        ["fc7.linear.new.1.weight", "fc7.linear.new.1.bias", "head.new.linear.weight", "head.new.linear.bias"],
    ),
    "batch": (
        lambda net: widen(widen(net, 4, norm="batch"), 4, norm="batch"),
        ["fc7.linear.new.1.weight", "fc7.linear.new.1.bias", "fc7.relu.new_norm.weight", "fc7.relu.new_norm.bias"],
    ),
}


@pytest.mark.parametrize("how", AGAIN)
def test_only_what_the_last_growth_added_is_new(how):
    grown = AGAIN[how][0](alexnet())
    new = {id(p) for module in new_modules(grown) for p in module.parameters()}
    head = head_name(grown)
    expected = {*AGAIN[how][1], f"{head}.weight", f"{head}.bias"}
    assert {name for name, p in grown.named_parameters() if id(p) in new} == expected
    train_only(grown, "new")
    assert {name for name, p in grown.named_parameters() if p.requires_grad} == expected
    train_only(grown, "fc7-new")
    assert {name for name, p in grown.named_parameters() if p.requires_grad} == expected | {
        name for name, _ in grown.named_parameters() if name.startswith("fc7")
    }


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_0", "mobilenet_v2", "mobilenet_v3_small", "convnext_tiny", "shufflenet_v2_x0_5"]
)
def test_the_representation_of_any_network_grows(name):
    net = torchvision_net(name).eval()
    x = images(2, 64)
    again = lambda n: widen(widen(n, 6), 5)  # noqa: E731
    for how in (GROW["widen"], GROW["deepen"], GROW["widen_and_deepen"], GROW["normalised"], again):
        grown = how(net).eval()
        assert grown(x).shape == (2, CLASSES)
        state = {k: v for k, v in net.state_dict().items() if not k.startswith(head_name(net))}
        missing, unexpected = grown.load_state_dict(state, strict=False)
        assert unexpected == []
        assert all(m.startswith(head_name(net)) for m in missing)


def test_torchvisions_alexnet_grows_at_its_hidden_layers():
    grown = widen_twice(torchvision_net("alexnet"), (3, 7))
    assert grown.classifier[4].blocks == [4096, 7]
    assert grown.classifier[4].new[0].in_features == 4096 + 3
    assert grown.eval()(images(2, 64)).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("scope", "trained"),
    [
        ("new", set()),
        ("fc7-new", {"fc7"}),
        ("fc6-new", {"fc6", "fc7"}),
        ("all", {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"}),
    ],
)
@pytest.mark.parametrize("how", GROW)
def test_scopes(how, scope, trained):
    grown = GROW[how](alexnet())
    train_only(grown, scope)
    for name, p in grown.named_parameters():
        new = ".new" in name or name.startswith("head")
        assert p.requires_grad == (new or name.split(".")[0] in trained), name
    norms = [m for m in grown.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.frozen == (scope != "all") for m in norms)


@pytest.mark.parametrize("how", GROW)
@pytest.mark.parametrize(("name", "maps", "fc6", "fc7"), [("alexnet", 12, 1, 4), ("vgg11", 20, 0, 3)])
def test_scopes_of_torchvisions_networks(name, maps, fc6, fc7, how):
    """Deepened or widened, FC6 and FC7 are found, and dropout works where it does in a network that did not grow."""
    with torch.device("meta"):
        net = torchvision_net(name)
        grown = GROW[how](net)
    assert {"fc6", "fc7"} <= taps(grown).keys()
    learned = (f"{head_name(net)}.", f"classifier.{fc7}.", f"classifier.{fc6}.", "features.")
    for count, (scope, last) in enumerate(
        {"new": "fc7", "fc7-new": "fc6", "fc6-new": f"features.{maps}", "all": None}.items(), 1
    ):
        train_only(grown, scope)
        for n, p in grown.named_parameters():
            assert p.requires_grad == (".new" in n or n.startswith(learned[:count])), n
        fixed = copy.deepcopy(net)
        if last:
            freeze(fixed, last)
        assert dropouts(grown) == dropouts(fixed), scope


def dropouts(net: nn.Module) -> list[bool]:
    train_mode(net)
    return [m.training for m in net.modules() if isinstance(m, nn.Dropout)]


def test_dropout_in_front_of_new_units_alone_goes_on():
    net = torchvision_net("squeezenet1_0")
    grown = widen(net, 6)
    train_only(grown, "new")
    freeze(net, "features.12")
    assert dropouts(grown) == dropouts(net) == [True]


HEADS = {
    "alexnet": "classifier.6",
    "vgg11": "classifier.6",
    "resnet18": "fc",
    "squeezenet1_1": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "convnext_tiny": "classifier.2",
}


@pytest.mark.parametrize("how", ["none", *GROW])
@pytest.mark.parametrize("name", [None, *HEADS])
def test_a_network_names_its_head_whatever_has_grown(name, how):
    with torch.device("meta"):
        net = torchvision_net(name) if name else build(SMALL, SIZE, CLASSES, 0)
        if how == "widen_twice" and name not in (None, "alexnet", "vgg11"):
            return
        grown = GROW[how](net) if how != "none" else copy.deepcopy(net)
    head = HEADS[name] if name else "head"
    assert (net.head_name, head_name(net)) == (head, head)
    beside = how in ("widen", "widen_and_deepen", "normalised") and not sites(net)
    levels = beside + (how in ("deepen", "widen_and_deepen"))  # of modules that were put around it
    assert grown.head_name == head_name(copy.deepcopy(grown)) == head + levels * ".head"
    layers = [n for n, m in grown.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert grown.head_name == layers[-1], "the last linear or convolutional layer"
    assert head_of(grown)[2].weight.shape[0] == CLASSES


def test_operations_by_name():
    assert list(GROWTH_OPERATIONS) == ["widen", "widen-twice", "deepen", "widen-and-deepen", "normalise"]
    assert all(GROWTH_OPERATIONS[name.replace("_", "-").replace("normalised", "normalise")] for name in GROW)


@pytest.mark.parametrize("how", GROW)
def test_surgery_repeats_by_its_seed(how):
    one, two, other = (GROW[how](alexnet(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert any(not torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.parametrize("how", GROW)
def test_bf16_and_other_classes(how):
    grown = GROW[how](alexnet(), classes=9)
    with torch.autocast("cpu", torch.bfloat16):
        out = grown(images())
    assert out.shape == (4, 9)
    assert out.isfinite().all()


@pytest.mark.parametrize("how", GROW)
def test_an_exported_network_gives_the_same(how):
    grown = GROW[how](alexnet()).eval()
    exported = torch.export.export(grown, (images(),))
    torch.testing.assert_close(exported.module()(images()), grown(images()))


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # of the exporter
@pytest.mark.parametrize("net", [alexnet, lambda: torchvision_net("squeezenet1_0")], ids=["alexnet", "squeezenet"])
@pytest.mark.parametrize("how", [widen, deepen], ids=["widen", "deepen"])
def test_onnx_gives_the_same_for_any_number_of_images(net, how, tmp_path):
    grown = how(net(), 6).eval()
    size = SIZE if net is alexnet else 64
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "grown.onnx"
    torch.onnx.export(
        grown,
        (x,),
        file,
        dynamo=True,
        verbose=False,
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("images")},),
    )
    session = onnxruntime.InferenceSession(file)
    for images in (x, x.repeat(2, 1, 1, 1)[:3]):
        (said,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(said), grown(images).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda net: widen(net, 0), r"units \(=0\): must be a whole number above 0"),
        (lambda net: deepen(net, -3), r"units \(=-3\): must be a whole number above 0"),
        (lambda net: widen_twice(net, (4, 0)), r"units \(=0\)"),
        (
            lambda net: widen(net, 4, norm="batches"),
            r"norm \(=batches\): must be one of l2, batch, layer, none; did you mean batch\?",
        ),
        (
            lambda net: widen(net, 4, init="copies"),
            r"init \(=copies\): must be one of random, copy; did you mean copy\?",
        ),
        (lambda net: widen(net, 4, scale=0.0), r"scale \(=0.0\): must be above 0"),
        (lambda net: widen(net, 4, classes=1), r"classes \(=1\): must be a whole number, at least 2"),
        (lambda net: widen(net, 4, classes="7"), r"classes \(=7\): must be a whole number, at least 2"),
        (lambda net: widen_twice(net, (3,)), r"units \(=\(3,\)\): must be two numbers, such as \(64, 128\)"),
        (lambda net: widen_twice(net, 3), r"units \(=3\): must be two numbers"),
        (lambda net: widen_and_deepen(net, (3,)), r"units \(=\(3,\)\): must be two numbers"),
        (lambda net: widen(deepen(net, 4), 4), r"layer \(=fc7\): lies below a layer that was put on top"),
        (lambda net: widen_twice(deepen(net, 4), (4, 4)), r"layer \(=fc7\): lies below a layer that was put on top"),
        (
            lambda net: train_only(widen(net, 4), "fc8-new"),
            r"scope \(=fc8-new\): must be one of new, fc7-new, fc6-new, all",
        ),
        (lambda net: widen(nn.Sequential(nn.ReLU()), 4), r"network \(=Sequential\): does not name its head"),
        (
            lambda net: widen(with_second_head(net), 4),
            r"network \(=AlexNetModule\): grow the network first, then add second heads",
        ),
    ],
)
def test_what_cannot_grow_is_told_in_one_line(act, message):
    with pytest.raises(UserError, match=message) as told:
        act(alexnet())
    assert "\n" not in str(told.value)


def test_networks_without_hidden_layers_grow_less():
    net = torchvision_net("squeezenet1_0")
    with pytest.raises(UserError, match=r"layer .*: this network has none of .*; it can grow at representation"):
        widen_twice(net, (3, 3))
    with pytest.raises(UserError, match=r"norm \(=batch\): maps are scaled by l2 or not at all"):
        widen(net, 4, norm="batch")
    with pytest.raises(UserError, match=r"scope \(=fc7-new\): must be one of new, all"):
        train_only(widen(net, 4), "fc7-new")
    with pytest.raises(UserError, match=r"init \(=copy\): a representation has no units of its own"):
        widen(net, 4, init="copy")
    assert sites(net) == {}
