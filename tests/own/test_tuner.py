"""From a folder to a network with evidence, and what of it can be read again elsewhere."""

import csv
import io
import json
import os
import sys

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from small_sets import draw, own_network, picture  # noqa: F401  (a fixture)
from small_world import trainings

import transferlab
from transferlab import FineTuner, cli
from transferlab.data.augment import normalise
from transferlab.data.images import shrink
from transferlab.errors import UserError
from transferlab.own import exported, fitting
from transferlab.own.exported import METRICS, MODEL, ONNX, PREDICTIONS

SHORT = {"network": "own", "steps": 4, "rates": 2}
CLASSES = {"apple": 12, "lemon": 12, "plum": 12}


@pytest.fixture
def folder(tmp_path, monkeypatch, own_network):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    return draw(tmp_path / "fruit", CLASSES)


@pytest.fixture(autouse=True)
def no_onnx(monkeypatch, request):
    """Writing that takes seconds, which one test is about."""
    if "squeezenet1_1-probe" not in request.node.name:
        monkeypatch.setattr(exported, "onnx", lambda model: b"")


@pytest.fixture
def shell(monkeypatch, capsys):
    """Run a command in this process; return exit code, output and errors."""

    def run(*words: object, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["transferlab", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return run


def rows(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_from_the_shell(folder, shell, tmp_path):
    words = ("finetune", "fruit", "--network", "own", "--steps", 4, "--rates", 2)
    with trainings() as seen:
        code, out, err = shell(*words)
    assert code == 0, err
    assert len(seen) == 2
    place = tmp_path / "fruit-finetuned"
    found = json.loads((place / METRICS).read_text())
    assert found["images"] == {"train": 24, "validation": 6, "test": 6}
    assert {row["rate"] for row in found["rates"]} == set(fitting.TRIED[:2])
    assert out.startswith(f"{100 * found['accuracy']:.1f}% of 6 test images")
    assert "probe: " in err
    assert "trained on Tiny ImageNet at 16 px" in err
    assert (found["n"], found["split"], found["classes"]) == (6, "test", [*CLASSES])
    assert (place / "report.html").stat().st_size > 5000
    answers = rows((place / PREDICTIONS).read_text())
    right = np.mean([a["class"] == a["predicted"] for a in answers])
    assert right == pytest.approx(found["accuracy"], abs=1e-5)
    assert all((folder / a["path"]).is_file() for a in answers)

    code, out, err = shell("predict", "fruit-finetuned", *(folder / a["path"] for a in answers))
    told = rows(out)
    assert code == 0
    assert [t["class"] for t in told] == [a["predicted"] for a in answers]
    assert [float(t["probability"]) for t in told] == pytest.approx(
        [float(a["probability"]) for a in answers], abs=2e-6
    )

    with trainings() as seen:  # everything is in the store
        assert shell(*words)[0] == 0
        again = json.loads((place / METRICS).read_text())
        assert shell("finetune", "fruit", *again["command"].split()[3:], "--out", "again")[0] == 0
    assert seen == []
    assert {k: v for k, v in found.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    one, other = (load_file(tmp_path / d / MODEL) for d in ("fruit-finetuned", "again"))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_killed_one_goes_on(folder, monkeypatch):
    run, done = fitting.Fitting.run, []

    def killed(self, trial, keep=False):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(trial)
        return run(self, trial, keep)

    tuner = FineTuner(**SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fitting, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            tuner.fit("fruit")
    with trainings() as seen:
        tuner.fit("fruit")
    assert [s.job.trial.recipe.lr for s in seen] == [fitting.TRIED[1]]


def test_what_the_time_allows_is_kept(folder, monkeypatch):
    monkeypatch.setattr(fitting, "step_seconds", lambda runs, steps: 0.01)
    tuner = FineTuner("finetune", minutes=1, network="own")
    monkeypatch.setattr(fitting, "PLENTY", (1, 60))
    first = tuner.fit("fruit").metrics_
    monkeypatch.setattr(fitting, "step_seconds", lambda runs, steps: 0.1)
    second = tuner.fit("fruit").metrics_
    assert first["steps"] == second["steps"] == 60
    assert first["rates"] == second["rates"]
    assert len(first["rates"]) == 3
    monkeypatch.setattr(fitting, "step_seconds", lambda runs, steps: 0.3)  # one fits
    assert len(FineTuner("finetune", minutes=0.5, network="own").fit("fruit").metrics_["rates"]) == 1
    monkeypatch.setattr(fitting, "step_seconds", lambda runs, steps: 3.0)
    with pytest.raises(
        UserError, match=r"minutes \(=0.5\): too few: one run of 50 steps at 16 px takes 3 min here; give 4"
    ):
        FineTuner("finetune", minutes=0.5, network="own", seed=1).fit("fruit")
    assert FineTuner("auto", minutes=0.5, network="own", seed=1).fit("fruit").metrics_["method"] == "probe"


def test_the_better_one_on_validation_images_is_handed_out(folder):
    for method in ("auto", "probe", "finetune"):
        found = FineTuner(method, **SHORT).fit("fruit").metrics_
        assert found["method"] == {"probe": "probe", "finetune": "fine-tune"}.get(method, found["method"])
        if method == "auto":
            best = max(row["validation_accuracy"] for row in found["rates"])
            assert found["validation"]["accuracy"] == max(best, found["probe"]["accuracy"])
        if found["method"] == "fine-tune":
            assert len(found["losses"]) == 4
            assert set(found["changed"]) == {
                "conv1.conv",
                "conv2.conv",
                "conv3.conv",
                "conv4.conv",
                "conv5.conv",
                "fc6.linear",
                "fc7.linear",
            }


def test_grown(folder, tmp_path):
    tuner = FineTuner("grow", **SHORT).fit("fruit")
    tuner.save("grown")
    assert tuner.metrics_["method"] == "grow"
    loaded = FineTuner.load("grown")
    np.testing.assert_allclose(loaded.predict_proba("fruit"), tuner.predict_proba("fruit"), atol=1e-6)
    assert loaded.model_.about["widened"] == "8"


@pytest.mark.parametrize(("name", "method"), [("squeezenet1_1", "probe"), ("shufflenet_v2_x0_5", "finetune")])
def test_torchvision_reads_it(tmp_path, monkeypatch, name, method):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "fruit", CLASSES)
    torch.manual_seed(0)
    save_file(torchvision.models.get_model(name).state_dict(), f"{name}-0123.safetensors")
    tuner = FineTuner(method, weights=f"{name}-0123.safetensors", size=32, steps=2, rates=1)
    tuner.fit("fruit").save("out")
    assert tuner.metrics_["network"] == name
    with safe_open(f"out/{MODEL}", "pt") as file:
        about = file.metadata()
    assert {"format", "classes", "size", "mean", "std", "preprocessing", "recipe", "network"} <= set(about)
    here = {"torchvision": torchvision, "safetensors": __import__("safetensors.torch")}
    exec(about["load"].replace(f"'{MODEL}'", f"'out/{MODEL}'"), here)
    files = sorted((tmp_path / "fruit").rglob("*.png"))[:5]
    images = normalise(torch.from_numpy(np.stack([shrink(Image.open(f).convert("RGB"), 32) for f in files])))
    with torch.no_grad():
        plain = here["net"](images)
    np.testing.assert_allclose(plain.softmax(1), tuner.predict_proba(files), atol=1e-5)
    if method == "probe":
        session = onnxruntime.InferenceSession(f"out/{ONNX}")
        for count in (1, 3, 5):
            (logits,) = session.run(None, {"images": images[:count].contiguous().numpy()})
            np.testing.assert_allclose(logits, plain[:count], rtol=1e-5, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- Python


def test_scikit_learns_habits(folder):
    tuner = FineTuner(**SHORT, seed=1)
    assert clone(tuner).get_params() == tuner.get_params() | {"seed": 1}
    assert tuner.set_params(minutes=3) is tuner
    assert tuner.minutes == 3
    with pytest.raises(UserError, match=r"parameter \(=minute\): .*did you mean minutes\?"):
        tuner.set_params(minute=3)
    with pytest.raises(UserError, match=r"FineTuner \(=not fitted\)"):
        tuner.predict("fruit")
    assert tuner.fit("fruit") is tuner
    assert tuner.classes_.tolist() == [*CLASSES]
    chances = tuner.predict_proba("fruit")
    assert chances.shape == (36, 3)
    np.testing.assert_allclose(chances.sum(1), 1)
    labels = np.repeat([*CLASSES], 12)
    assert tuner.score("fruit") == np.mean(tuner.predict("fruit") == labels)


def test_arrays_and_files_are_images_too(folder, tmp_path):
    pixels = np.stack([np.asarray(picture(label, k)) for label in range(3) for k in range(8)])
    y = np.repeat([5, 7, 9], 8)
    tuner = FineTuner("probe", **SHORT).fit(pixels, y)
    assert tuner.classes_.tolist() == [5, 7, 9]
    assert tuner.predict(pixels).dtype == y.dtype
    assert tuner.score(pixels, y) == np.mean(tuner.predict(pixels) == y)
    tuner.save("arrays")
    loaded = FineTuner.load("arrays")
    assert loaded.predict(pixels).tolist() == tuner.predict(pixels).tolist()
    files = []
    for number, image in enumerate(pixels):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(files[-1])
    by_file = FineTuner("probe", **SHORT).fit(files, y.tolist())
    np.testing.assert_allclose(by_file.predict_proba(files), by_file.predict_proba(pixels))
    for X, y, message in [
        (pixels, None, r"y \(=None\): must be one label for each of the 24 images"),
        (pixels, [1, 2], r"y \(=2\): must be one label for each of the 24 images"),
        (pixels / 255, [1] * 24, r"X \(=\(24, 20, 20, 3\) of float64\): an array must be"),
        ([pixels[0]], [1], r"X \(=list\): must be a folder, a list of files, or an array"),
        (files, ["a"] * 24, "has one class"),
        ("fruit", [1], r"y \(=given\): a folder says its labels itself"),
    ]:
        with pytest.raises(UserError, match=message):
            FineTuner(**SHORT).fit(X, y)


def test_import_needs_no_torch():
    assert "FineTuner" not in vars(transferlab)
    with pytest.raises(AttributeError):
        transferlab.FineTune  # noqa: B018


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere", "folder (=nowhere): there is no such folder"),
        ("fruit --method finetun", "must be one of auto, finetune, probe, grow; did you mean finetune?"),
        ("fruit --method borrow", "method (=borrow): needs a source set to borrow from"),
        ("fruit --network mobilnet_v2", "did you mean mobilenet_v2?"),
        ("fruit --network mobilenet_v2 --method grow --weights w.safetensors", "method (=grow): widens the book's own"),
        ("fruit --network own --size 64", "size (=64): the book's own network takes 16 px"),
        ("fruit --network own --seed 7", "seed (=7): must be one of 0, 1"),
        ("fruit --network own --rates 9", "rates (=9): must be 3 at most"),
        ("fruit --network own --minutes 0", "minutes (=0.0): must be above 0"),
        ("fruit --network own --device cpuu", "device (=cpuu): must be one of auto, cpu, cuda, mps"),
        ("fruit --weights no.pth", "weights (=no.pth): there is no such file here, nor in"),
        ("fruit --network resnet18 --weights w.safetensors", "of another architecture"),
        ("fruit --network squeezenet1_1 --weights w.safetensors --size 16", "network (=squeezenet1_1): failed: "),
        ("fruit --network own --out taken", "out (=taken): exists, and is not of this command"),
        ("fruit --network own --out taken/file", "out (=taken/file): is a file"),
        ("one", "has one class (('a',)); at least two are needed"),
        ("two", "3 training images of each class are needed; a has 1, b has 1"),
        ("lacking", "class b has no test images"),
        ("broken", "1 unreadable image (train/a/x.png); leave out with --skip-unreadable"),
    ],
)  # fmt: skip
def test_bad_words_are_told_in_a_line(folder, shell, tmp_path, words, message):
    draw(tmp_path / "one", {"a": 4})
    draw(tmp_path / "two", {"a": 1, "b": 1})
    draw(tmp_path / "lacking", {"train/a": 4, "train/b": 4, "test/a": 2})
    draw(tmp_path / "broken", {"a": 5, "b": 5})
    (tmp_path / "broken" / "a" / "x.png").write_bytes(b"no image")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    if "safetensors" in words:
        name = "mobilenet_v2" if "mobilenet_v2" in words else "squeezenet1_1"
        save_file(torchvision.models.get_model(name).state_dict(), "w.safetensors")
    if words in ("one", "two", "lacking", "broken"):
        words += " --network own"
    code, out, err = shell("finetune", *words.split())
    assert message in err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_three_images_a_class_and_other_modes(folder, tmp_path):
    place = draw(tmp_path / "few", {"a": 3, "b": 3})
    for mode, name in (("L", "a/000"), ("CMYK", "a/001"), ("P", "b/000"), ("RGBA", "b/001"), ("1", "b/002")):
        image = Image.open(place / f"{name}.png").convert(mode)
        (place / f"{name}.png").unlink()
        image.save(place / f"{name}.{'tif' if mode == 'CMYK' else 'png'}")
    found = FineTuner(**SHORT).fit(place).metrics_
    assert found["images"] == {"train": 2, "validation": 2, "test": 2}


def test_the_books_own_where_nothing_can_be_downloaded(folder, shell, monkeypatch, tmp_path):
    def none(*given, **named):
        raise OSError("no network")

    monkeypatch.setattr("transferlab.own.networks.urlopen", none)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    code, _, err = shell("finetune", "fruit", "--network", "resnet18")
    assert code == 2
    assert "network (=resnet18): weights are neither in" in err
    assert "https://download.pytorch.org/models/resnet18" in err
    code, _, err = shell("finetune", "fruit", "--method", "probe")
    assert code == 0
    assert "cannot be had (OSError: no network); instead: the book's own small AlexNet" in err


# ------------------------------------------------------------------------------------------------------------ predict


def test_predict(folder, shell, tmp_path):
    FineTuner("probe", **SHORT).fit("fruit").save("model")
    (tmp_path / "fruit" / "apple" / "notes.txt").touch()
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, err = shell("predict", "model", "fruit", "bad.png", "-", "--top", 2, given="fruit/plum/000.png\n\n")
    assert code == 0
    told = rows(out)
    assert len(told) == 2 * 37
    assert told[-1]["path"] == "fruit/plum/000.png"
    assert float(told[0]["probability"]) >= float(told[1]["probability"])
    assert "passed over: other suffixes 1 (apple/notes.txt)" in err
    assert "image (=bad.png): cannot be read" in err
    code, out, _ = shell("predict", "model", "fruit/plum/000.png", "--json")
    (one,) = json.loads(out)
    assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert one["probabilities"][one["class"]] == one["probability"] == max(one["probabilities"].values())
    assert one["class"] == told[-2]["class"]
    code, out, err = shell("predict", "model", "bad.png", "gone.png")
    assert code == 1
    assert err.count("\n") == 3
    code, _, err = shell("predict", "fruit", "bad.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "model (=fruit): there is no model.safetensors in it; make one with: transferlab finetune" in err
    state, about = load_file(f"model/{MODEL}"), safe_open(f"model/{MODEL}", "pt").metadata()
    save_file(state, f"model/{MODEL}", about | {"format": "0"})
    code, _, err = shell("predict", "model", "fruit")
    assert (code, err) == (2, "transferlab: model (=model): is of format 0, and this version of transferlab reads 1\n")
    os.truncate(f"model/{MODEL}", 100)
    assert "cannot be read" in shell("predict", "model", "fruit")[2]
