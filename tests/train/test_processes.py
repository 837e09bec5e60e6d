"""One training run over two processes: the same training, and one network file."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_fit import RECIPE, SIZE, run_of
from torch import nn

from transferlab.errors import UserError
from transferlab.store import Store
from transferlab.train import processes
from transferlab.train.fit import fit

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SHARED = """
import sys
import torch
from test_fit import run_of
from test_processes import SLOW, network
from transferlab.train import processes
from transferlab.train.fit import fit
with processes.joined("cpu"):
    net = network()
    losses = fit(run_of(net, recipe=SLOW)).losses
    assert processes.count() == 2
    torch.save((net.state_dict(), losses), f"{sys.argv[1]}/{processes.number()}.pt")
"""


PRETRAIN = """
from dataclasses import replace
from transferlab import scales
from transferlab.cli import main
smoke = scales.SCALES["smoke"]
scales.SCALES["smoke"] = replace(smoke, pretrain=replace(smoke.pretrain, steps=4))
main()
"""

SLOW = replace(RECIPE, lr=0.001)


def network() -> nn.Module:
    """Without BatchNorm, whose statistics are each process's own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (SIZE - 2) ** 2, 4))


def environment(folder: Path) -> dict[str, str]:
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
    given = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TRANSFERLAB_STORE": str(folder)}
    return os.environ | given


def run(*command: str, folder: Path) -> subprocess.CompletedProcess:
    given = {"env": environment(folder), "cwd": HERE.parent.parent, "timeout": 300}
    return subprocess.run(command, capture_output=True, text=True, check=False, **given)


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    done = run(*TORCHRUN, str(script), str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = network()
    losses = fit(run_of(alone, recipe=SLOW)).losses
    for rank in (0, 1):
        state, seen = torch.load(tmp_path / f"{rank}.pt")
        assert (seen - losses).abs().max() < 1e-5
        assert all((state[k] - v).abs().max() < 1e-5 for k, v in alone.state_dict().items())


def test_sources_of_a_chapter_over_two_processes(tmp_path):
    """Of a few steps; what is there is not made again."""
    script = tmp_path / "pretrain.py"
    script.write_text(PRETRAIN)
    words = [str(script), "pretrain", "images_per_class", "--scale", "smoke", "--seeds", "0", "--device", "cpu"]
    done = run(*TORCHRUN, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    networks = sorted((tmp_path / "networks").iterdir())
    assert len(networks) == done.stderr.count(", seed 0: ok") > 1
    assert {Store(tmp_path).get(path.stem)["provenance"]["processes"] for path in networks} == {2}
    networks.pop().unlink()
    done = run(sys.executable, *words, folder=tmp_path)
    assert done.stderr.count(", seed 0: ok") == 1, done.stderr


def test_a_batch_is_shared_out_evenly(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(UserError, match=r"batch \(=16\): must be a multiple of the number of processes, 3"):
        fit(run_of(network(), recipe=RECIPE))
