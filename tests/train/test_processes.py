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


SLOW = replace(RECIPE, lr=0.001)


def network() -> nn.Module:
    """Without BatchNorm, whose statistics are each process's own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (SIZE - 2) ** 2, 4))


def torchrun(*words: str, folder: Path) -> subprocess.CompletedProcess:
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TRANSFERLAB_STORE": str(folder)}
    return subprocess.run(
        [*TORCHRUN, *words], env=env, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=300
    )


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    done = torchrun(str(script), str(tmp_path), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = network()
    losses = fit(run_of(alone, recipe=SLOW)).losses
    for rank in (0, 1):
        state, seen = torch.load(tmp_path / f"{rank}.pt")
        assert (seen - losses).abs().max() < 1e-5
        assert all((state[k] - v).abs().max() < 1e-5 for k, v in alone.state_dict().items())


def test_sources_of_a_chapter_over_two_processes(tmp_path):
    from transferlab import chapters
    from transferlab.run import work
    from transferlab.store import Store

    words = ("-m", "transferlab", "pretrain", "images_per_class", "--scale", "smoke", "--seeds", "0", "--device", "cpu")
    done = torchrun(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    networks = sorted((tmp_path / "networks").iterdir())
    assert len(networks) == done.stderr.count(", seed 0: ok") > 1
    assert b"processes" in networks[0].read_bytes()[:4000]
    told = []
    trials = chapters.chapter("images_per_class").design("smoke", [0])
    work.pretrain(trials, Store(tmp_path), "cpu", 1, told.append)
    assert told == []


def test_a_batch_is_shared_out_evenly(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(UserError, match=r"batch \(=16\): must be a multiple of the number of processes, 3"):
        fit(run_of(network(), recipe=RECIPE))
