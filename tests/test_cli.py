"""The command: what a user gets for good and for bad words. Every error is one line and exit code 2."""

import http.server
import json
import socket
import subprocess
import sys
import urllib.request

import pytest
from test_imports import NO_FCNTL, python

from transferlab import cli


def transferlab(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Run the command in this process, and return exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["transferlab", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    return stopped.value.code or 0, said.out, said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "runn",
            "command (=runn): must be one of run, build, serve, record, status, claims, data, look, advise, finetune, "
            "predict",
        ),
        ("run image_per_class", "chapter (=image_per_class): must be one of how_fast"),
        (
            "run images_per_class --scale cpuu",
            "scale (=cpuu): must be one of smoke, cpu, gpu, paper; did you mean cpu?",
        ),
        ("run images_per_class -p seed=8", "parameter of images_per_class (=seed): must be one of scale, seeds, run"),
        ("run images_per_class -p seeds=", "seeds (=): must be a number of seeds (8), a block (0-3) or a list (0,2,5)"),
        ("run images_per_class -p live=2", "live (=2): must be bool"),
        ("run images_per_class --seeds 3-1", "seeds (=3-1): must be a number of seeds"),
        ("run images_per_class --seeds 0,0", "seeds (=0,0): names a seed twice"),
        ("run images_per_class --seeds 0-99999999999", "seeds (=0-99999999999): must be 1000 at most"),
        (
            "run images_per_class --scale smoke --no-page -p run=sometimes",
            "run (=sometimes): must be one of missing, never",
        ),
        (
            "run images_per_class --scale smoke --no-page --device gpu",
            "device (=gpu): must be one of auto, cpu, cuda, mps; did you mean cpu?",
        ),
        ("run images_per_class --workers none", "Invalid value for '--workers'"),
        (
            "run images_per_class --device cpuu --scale smoke --no-page",
            "device (=cpuu): must be one of auto, cpu, cuda, mps; did you mean cpu?",
        ),
        ("run", "Missing argument 'CHAPTER'"),
        ("run images_per_class --sed 3", "No such option"),
        ("claims --scale tiny", "scale (=tiny): must be one of cpu, gpu, paper"),
        (
            "claims --paper growin",
            "paper (=growin): must be one of finetuning, growing, treasures, imagenet, factors; did you mean growing?",
        ),
        ("data pin nonsense", "data set (=nonsense): no Parquet files under"),
        ("data pin folder:/no/such", "data set (=folder:/no/such): there is no such folder"),
        ("data pin folder:", "data set (=folder:): must name a folder: folder:PATH"),
        ("data pin torchvision:CIFAR", "torchvision set (=CIFAR): must be one of"),
        ("data", "command (=none): must be one of list, pin"),
        ("data pim", "command (=pim): must be one of list, pin, sample; did you mean pin?"),
    ],
)
def test_bad_words(monkeypatch, capsys, words, message):
    code, out, err = transferlab(monkeypatch, capsys, *words.split(" "))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_without_words_it_says_what_there_is(monkeypatch, capsys):
    code, out, err = transferlab(monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 10


def test_never_runs_nothing(monkeypatch, capsys):
    code, _, err = transferlab(
        monkeypatch,
        capsys,
        "run",
        "images_per_class",
        "--scale",
        "smoke",
        "--seeds",
        "0",
        "--no-page",
        "-p",
        "run=never",
    )
    assert code == 2
    assert err.endswith("none published and run is never\n")


def test_a_store_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSFERLAB_STORE", str(tmp_path / "file" / "store"))
    code, _, err = transferlab(
        monkeypatch, capsys, "run", "images_per_class", "--scale", "smoke", "--seeds", "0", "--no-page"
    )
    assert code == 2
    assert "store (=" in err
    assert "cannot be written" in err


def test_plan_starts_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TRANSFERLAB_STORE", str(tmp_path / "store"))
    code, out, _ = transferlab(
        monkeypatch, capsys, "run", "images_per_class", "--scale", "smoke", "--seeds", "0-2", "--plan", "--workers", "2"
    )
    assert code == 0
    assert out.startswith(
        "images_per_class at scale smoke, seeds 0,1,2: 9 sources to pretrain, 33 runs to make, 0 on record; about "
    )
    assert not (tmp_path / "store").exists()


READING = """
import contextlib, io, json
import transferlab.build, transferlab.lab, transferlab.publish, transferlab.store
from transferlab import cli
from transferlab.arms import growing
from transferlab.report import cards, claims, controls, figure, sphinx, stats, theme

told = {}
for words in ("claims --json", "claims --paper imagenet", "status --json", "status"):
    sys.argv = ["transferlab", *words.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            cli.main()
        except SystemExit as stopped:
            told[words] = stopped.code or 0, out.getvalue()
assert "torch" not in sys.modules
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    """What a process without torch and fcntl says of all that is published, and its exit codes: judging takes long."""
    done = python(NO_FCNTL + READING)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_reading_judging_and_building_import_no_torch_and_need_no_fcntl(told):
    assert [code for code, _ in told.values()] == [0] * 4


def test_claims_as_json(told):
    rows = json.loads(told["claims --json"][1])
    assert len({r["claim"] for r in rows}) == 53
    wanted = {"claim", "paper", "scale", "verdict", "effect", "interval", "bar", "p", "n", "seeds", "parts"}
    assert all(wanted | {"fixed_before", "rule"} <= r.keys() for r in rows)
    for part in (part for r in rows for part in r["parts"]):
        assert part["interval"][0] <= part["effect"] <= part["interval"][1]
        assert part["n"] > 1
    assert all(len(r["parts"]) == 1 for r in rows if r["effect"] is not None)
    assert all(not r["parts"] and r["scale"] is None for r in rows if r["verdict"] == "not tested")


def test_claims_as_a_table(told):
    lines = told["claims --paper imagenet"][1].splitlines()
    assert lines[0].split() == ["claim", "scale", "verdict", "effect", "interval", "bar", "p", "n"]
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == [f"I{i}" for i in range(1, 12)]
    assert any(line.startswith("  ") for line in lines)  # parts of a claim, below it


def test_status(told):
    rows = {(r["chapter"], r["scale"]): r for r in json.loads(told["status --json"][1])}
    assert set(next(iter(rows.values()))) == {
        "chapter",
        "scale",
        "state",
        "seeds",
        "published",
        "missing",
        "stale",
        "command",
    }
    assert rows["images_per_class", "gpu"]["command"] in ("", "transferlab run images_per_class --scale gpu")
    assert told["status"][1].splitlines()[0].split()[:3] == ["chapter", "scale", "state"]


def test_data_list(monkeypatch, capsys):
    _, out, _ = transferlab(monkeypatch, capsys, "data", "list")
    assert "flowers102" in out
    _, out, _ = transferlab(monkeypatch, capsys, "data", "list", "--json")
    assert {"name", "classes", "splits", "fingerprint"} <= json.loads(out)[0].keys()


def test_pinning_a_folder_and_training_on_it(monkeypatch, capsys, tmp_path):
    from PIL import Image

    for label, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        for i in range(10):
            path = tmp_path / "pictures" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 24), (colour[0] + i, colour[1], colour[2])).save(path)
    monkeypatch.setenv("TRANSFERLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path / "cache"))
    name = f"folder:{tmp_path / 'pictures'}"
    code, out, _ = transferlab(monkeypatch, capsys, "data", "pin", name)
    assert code == 0
    assert "20 images in 2 classes, fingerprint" in out
    assert "; classes blue, red; noted in" in out
    assert f"noted in {tmp_path / 'cache' / 'manifest.json'}" in out

    from transferlab import scales
    from transferlab.lab import Lab
    from transferlab.methods import Scratch
    from transferlab.specs import Recipe, Target, Trial

    trial = Trial(Target(name, 24), Scratch(Recipe(steps=30, batch=8, lr=0.05)), scales.scale("smoke").backbone, 0)
    assert Lab(tmp_path / "store", workers=1).run([trial]).loc[0, "accuracy"] == 1.0


def test_unreadable_images_are_named_counted_and_may_be_left_out(monkeypatch, capsys, tmp_path):
    from PIL import Image

    for label in ("a", "b"):
        for i in range(6):
            path = tmp_path / "pictures" / label / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 40), 60).convert("RGB").save(path)
    broken = tmp_path / "pictures" / "a" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    monkeypatch.setenv("TRANSFERLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path / "cache"))
    name = f"folder:{tmp_path / 'pictures'}"
    code, _, err = transferlab(monkeypatch, capsys, "data", "pin", name)
    assert code == 2
    assert "1 unreadable image (" in err
    assert "a/3.jpg); leave out with --skip-unreadable" in err
    code, out, _ = transferlab(monkeypatch, capsys, "data", "pin", name, "--skip-unreadable")
    assert code == 0
    assert "11 images in 2 classes" in out
    assert "1 unreadable left out" in out


def test_names_reach_the_terminal_as_text(monkeypatch, capsys, tmp_path):
    from PIL import Image

    monkeypatch.setenv("TRANSFERLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path / "cache"))
    for label in ("a\n", "\x1b[2J"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (i, len(label), 0)).save(tmp_path / "pictures" / label / f"{i}.png")
    code, out, _ = transferlab(monkeypatch, capsys, "data", "pin", f"folder:{tmp_path / 'pictures'}")
    assert code == 0
    assert out.count("\n") == 1
    assert "classes \\x1b[2J, a ; noted in" in out


def test_serve_wants_a_book(monkeypatch, capsys, tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").write_text("")
    monkeypatch.chdir(tmp_path)
    code, _, err = transferlab(monkeypatch, capsys, "serve", "--no-open")
    assert code == 2
    assert "is not built yet; build it with: transferlab build" in err


def test_the_installed_command():
    done = subprocess.run(
        [sys.executable, "-m", "transferlab", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "0.1.0" in done.stdout


def test_a_browser_in_the_terminal_gets_the_book(monkeypatch, capsys, tmp_path):
    """It ends when it is left: what it asks for is served meanwhile."""
    found, servers = [], []

    class Server(http.server.ThreadingHTTPServer):
        def __init__(self, *given) -> None:
            super().__init__(*given)
            servers.append(self)

    def browse(address: str) -> None:
        try:
            with urllib.request.urlopen(address, timeout=60) as page:
                found.append(page.read())
        finally:
            servers[0].shutdown()

    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_build" / "html").mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text("")
    (tmp_path / "_build" / "html" / "index.html").write_text("the book")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr("http.server.ThreadingHTTPServer", Server)
    code, out, err = transferlab(monkeypatch, capsys, "serve", "--port", str(free_port()))
    servers[0].server_close()
    assert (code, found) == (0, [b"the book"])
    assert out.startswith("the book is at http://127.0.0.1:")
    assert "Traceback" not in err


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
