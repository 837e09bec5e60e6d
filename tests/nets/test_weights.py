"""Weights as training scripts leave them: under keys, with prefixes, beside other things, with any head or none."""

import argparse
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from transferlab.errors import UserError
from transferlab.methods import CoTuning, Distillation
from transferlab.nets.build import build, head_of, new_head, pretrained
from transferlab.nets.taps import taps
from transferlab.nets.weights import found_in, read_state
from transferlab.paths import file_fingerprint, weights_root
from transferlab.specs import AlexNet, ResNet, Torchvision, Weights

SMALL = AlexNet((2, 2, 2, 2, 2), (3, 4))
NET = build(SMALL, 24, 5, seed=3)
STATE = NET.state_dict()
OTHER = build(SMALL, 24, 5, seed=4).state_dict()
BODY = {k: v for k, v in STATE.items() if not k.startswith("head.")}


def under(prefix: str, state: dict) -> dict:
    return {prefix + k: v for k, v in state.items()}


def kept(content: object, name: str = "net.pth", **how) -> Weights:
    path = weights_root() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".safetensors"):
        save_file(content, path)
    else:
        torch.save(content, path, **how)
    return Weights(f"file:{name}", file_fingerprint(path))


def read(content: object, backbone=SMALL, size: int = 24, name: str = "net.pth", **how) -> nn.Module:
    return pretrained(kept(content, name, **how), backbone, size)


def refused(content: object, backbone=SMALL, **about) -> str:
    with pytest.raises(UserError) as caught:
        read(content, backbone, **about)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    return str(caught.value)


def same(net: nn.Module, state: dict) -> bool:
    found = net.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[k], v) for k, v in state.items())


class Settings:
    """What a script keeps beside its network; nothing of it may be made when the file is read."""

    def __init__(self) -> None:
        self.rate = 0.1


def trained() -> dict:
    """Return what an optimiser keeps after a step."""
    net = build(SMALL, 24, 5, seed=3)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.zeros(2, 3, 24, 24)).sum().backward()
    optimiser.step()
    return optimiser.state_dict()


FORMS = {
    "flat": STATE,
    "under a key": {"epoch": 3, "state_dict": STATE},
    "model": {"model": STATE, "optimizer": trained(), "epoch": 3, "best": torch.tensor(54.0)},
    "model_state_dict": {"model_state_dict": STATE, "loss": 0.1, "rng": torch.zeros(8, dtype=torch.uint8)},
    "two keys deep": {"checkpoint": {"weights": {"network": STATE}}},
    "several devices": under("module.", STATE),
    "several devices, under a key": {"arch": "alexnet", "state_dict": under("module.", STATE)},
    "a part on several devices": {k.replace("conv2.", "conv2.module."): v for k, v in STATE.items()},
    "compiled": under("_orig_mod.", STATE),
    "compiled, on several devices": {"model": under("module._orig_mod.", STATE)},
    "a part of a module": {"state_dict": under("net.", STATE) | {"criterion.weight": torch.ones(5)}},
    "a backbone": under("model.backbone.", STATE) | under("model.neck.", {"0.weight": torch.ones(4, 4)}),
    "averages without their own key": under("module.", STATE) | {"n_averaged": torch.tensor(7)},
    "with settings": {"model": STATE, "args": argparse.Namespace(lr=0.1), "config": Settings(), "best": np.float64(1)},
    "half": {k: v.half() if v.is_floating_point() else v for k, v in STATE.items()},
    "an ordered one": OrderedDict(STATE),
    "parameters": {"model": dict(NET.named_parameters()) | dict(NET.named_buffers())},
    "the whole network": NET,
    "the whole network, under a key": {"epoch": 1, "model": nn.DataParallel(NET)},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found(form):
    state = {k: v.half().float() for k, v in STATE.items()} if form == "half" else STATE
    assert same(read(FORMS[form]), {k: v.to(STATE[k].dtype) for k, v in state.items()})


@pytest.mark.parametrize("form", ["flat", "several devices", "compiled", "a backbone"])
def test_also_in_safetensors_whatever_the_file_is_called(form):
    assert same(read(FORMS[form], name="net.safetensors"), STATE)
    (weights_root() / "net.safetensors").rename(weights_root() / "net.bin")
    assert same(pretrained(Weights("file:net.bin", file_fingerprint(weights_root() / "net.bin")), SMALL, 24), STATE)


def test_bfloat16_and_float64():
    for dtype in (torch.bfloat16, torch.float64):
        found = read({k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}).state_dict()
        for name, value in STATE.items():
            assert found[name].dtype == value.dtype
            assert torch.allclose(found[name], value.to(dtype).to(value.dtype))


def test_the_format_of_old_torch():
    form = {"epoch": 1, "state_dict": under("module.", STATE)}
    assert same(read(form, _use_new_zipfile_serialization=False), STATE)


def test_what_counts_steps_may_be_missing():
    left = {k: v for k, v in STATE.items() if not k.endswith("num_batches_tracked")}
    assert len(left) < len(STATE)
    assert same(read(left), STATE)


def test_names_that_torchvision_gave_up():
    layer = "features.denseblock1.denselayer2."
    kept({layer + name: torch.ones(1) for name in ("norm.1.weight", "conv.2.weight", "norm2.bias")})
    names = [layer + name for name in ("norm1.weight", "conv2.weight", "norm2.bias")]
    assert [*read_state(weights_root() / "net.pth")] == names


# ------------------------------------------------------------------------------------------------------------ heads


def test_a_head_of_any_number_of_classes_stays():
    net = build(SMALL, 24, 9, seed=1)
    found = read({"model": net.state_dict()})
    assert same(found, net.state_dict())
    assert not getattr(found, "headless", False)


def test_a_head_of_no_classes_is_none():
    net = read(BODY | {"head.weight": STATE["head.weight"][:0], "head.bias": STATE["head.bias"][:0]})
    assert net.headless


def test_whatever_the_suffix_says():
    kept(STATE)
    content = (weights_root() / "net.pth").read_bytes()
    assert same(read(content, name="net.safetensors"), STATE)


def test_a_head_without_a_bias():
    found = read({k: v for k, v in STATE.items() if k != "head.bias"})
    assert same(found, STATE | {"head.bias": torch.zeros(5)})


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"last_linear.weight": torch.ones(7, 4), "last_linear.bias": torch.ones(7)},
        {
            "projector.0.weight": torch.ones(6, 4),
            "projector.1.weight": torch.ones(6),
            "projector.3.weight": torch.ones(2, 6),
        },
        {"head.0.weight": torch.ones(6, 4), "head.2.weight": torch.ones(7, 6)},
        {"head.weight": torch.ones(7, 9)},
    ],
    ids=["none", "another name", "a projection", "several layers", "of other features"],
)
def test_a_network_without_its_head(head):
    net = read({"state_dict": BODY | head})
    assert same(net, BODY | {k: net.state_dict()[k] for k in ("head.weight", "head.bias")})
    assert net.headless
    assert not {"fc8", "softmax"} & taps(net).keys()
    assert "representation" in taps(net)
    new_head(net, 3, seed=0)
    assert len(head_of(net)[2].weight) == 3
    assert {"fc8", "softmax"} <= taps(net).keys()


@pytest.mark.parametrize("hold", [Distillation(1.0), CoTuning(1.0)])
def test_what_asks_for_the_old_answers_wants_a_head(hold):
    with pytest.raises(UserError, match=r"network \(=AlexNetModule\): its weights came without a head, so it has no"):
        hold.objective(build(SMALL, 24, 3, 0), read(BODY), None)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("googlenet", ("aux1.fc1.weight", "aux2.conv.conv.weight")),
        ("inception_v3", ("AuxLogits.fc.weight", "AuxLogits.conv0.conv.weight")),
    ],
)
def test_auxiliary_heads_are_left_out(name, extra, monkeypatch):
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda value, **_: value.data.fill_(0.01))  # which takes seconds
    net = build(Torchvision(name), 80, 3, seed=0)
    assert not [k for k in net.state_dict() if k.lower().startswith("aux")]
    given = net.state_dict() | {k: torch.ones(2, 2) for k in extra}
    assert found_in(given, net, "fc", name).keys() == net.state_dict().keys()
    with torch.no_grad():
        assert net.train()(torch.zeros(2, 3, 80, 80)).shape == (2, 3)


# --------------------------------------------------------------------------------------------------- several of them


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("plain", "averaged"), [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "swa")]
)
def test_averages_are_preferred_and_said_to_be(plain, averaged, first):
    both = [(plain, OTHER), (averaged, under("module.", STATE) | {"n_averaged": torch.tensor(3)})]
    with pytest.warns(UserWarning, match=rf"file:net.pth: averaged weights are read \({averaged}\.\), not {plain}\.$"):
        assert same(read(dict(both if first else both[::-1])), STATE)


def test_two_networks_are_one_too_many():
    assert refused(under("student.backbone.", STATE) | under("teacher.backbone.", OTHER)) == (
        "weights (=file:net.pth): fit in several places (student.backbone., teacher.backbone.); "
        "save those that are meant in a file of their own"
    )
    assert same(read({"student": STATE, "teacher": STATE}), STATE)  # the same, so whichever
    deeper = build(AlexNet((2, 2, 2, 2, 2, 2), (3, 4)), 24, 5, 0).state_dict()
    assert same(read({"teacher": deeper, "student": STATE}), STATE)  # only one fits


# ------------------------------------------------------------------------------------------------------- other ones


def test_another_architecture_is_not_read_in_part():
    net = build(ResNet(18, "small"), 32, 2, 0)
    state = net.state_dict()
    deeper = state | {k.replace("layer1.1", "layer1.2"): v for k, v in state.items() if k.startswith("layer1.1")}
    rule = r"weights \(=mine\): of another architecture \(12 tensors differ; layer1.2.bn1.bias is only in the file\)"
    with pytest.raises(UserError, match=rule):  # as ResNet-34 has them
        found_in(under("module.", deeper), net, "fc", "mine")
    rule = r"\(1 tensors differ; conv1.weight, \(64, 3, 7, 7\) for \(64, 3, 3, 3\)\)"
    with pytest.raises(UserError, match=rule):
        found_in(state | {"conv1.weight": torch.ones(64, 3, 7, 7)}, net, "fc", "mine")
    deeper = build(AlexNet((2, 2, 2, 2, 2, 2), (3, 4)), 24, 5, 0).state_dict()
    file = {k: v for k, v in deeper.items() if not k.startswith("head.")}
    assert "conv6.conv.weight is only in the file" in refused(file)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ([torch.zeros(2)], "list"),
        ({"epoch": 3, "best": 0.5}, "epoch, best"),
        ({}, ""),
    ],
)
def test_files_without_weights(content, held):
    assert refused(content).endswith(f"cannot be read as a state dict (no tensors by name in it, but {held})")


@pytest.mark.parametrize(
    "odd",
    [
        torch.empty(5, 4, device="meta"),
        torch.ones(5, 4).to_sparse(),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_what_is_no_plain_tensor(odd):
    file = STATE | {"head.weight": odd}
    assert refused(file).endswith("head.weight is no plain tensor (sparse, quantised, or without content)")


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_whole_numbers_are_no_weights(kind):
    file = STATE | {"head.weight": STATE["head.weight"].to(kind)}
    assert refused(file).endswith("hold whole or complex numbers (head.weight); wanted: floating point")


def test_something_else():
    assert "of another architecture (" in refused({"state_dict": {"a": torch.zeros(1)}})


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "net.pth")
    found = refused((tmp_path / "net.pth").read_bytes())
    assert found.endswith("(a TorchScript archive; save the network's state_dict() by itself)")


@pytest.mark.parametrize("new", [True, False])
def test_no_code_is_run(tmp_path, new):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    for content in ({"model": STATE, "trap": Trap()}, {"trap": Trap(), "model": STATE}):
        assert "cannot be read as a state dict (posix.mkdir in it; save" in refused(
            content, _use_new_zipfile_serialization=new
        )
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
            "a Git LFS pointer, not the file itself; ",
        ),
        (
            b"/annex/objects/SHA256E-s5--00.pth\n",
            "a git-annex pointer, not the file itself; get that with: git annex get",
        ),
        (b"\n <!DOCTYPE html><html>", "a web page, not the file itself"),
        (b"", "empty; fetch it again"),
    ],
)
def test_files_that_stand_for_others(name, content, kind):
    assert refused(content, name=name).startswith(f"weights (={weights_root() / name}): is {kind}")
    with pytest.raises(UserError, match=r"weights \(=.*\): is "):
        Weights(f"file:{name}")  # which says so, and not that it is not pinned
