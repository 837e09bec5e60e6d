"""The synthetic world is worth transferring in: on a small target a probe beats scratch, and fine-tuning the probe."""

from dataclasses import replace
from itertools import pairwise

from transferlab import scales
from transferlab.lab import Lab
from transferlab.methods import Probe
from transferlab.report.stats import effect
from transferlab.specs import Trial

SEEDS = range(5)
SHORT = scales.scale("smoke")
S = replace(SHORT, pretrain=replace(SHORT.pretrain, steps=300), train=replace(SHORT.train, steps=150))


def arm(method, source) -> list[Trial]:
    return [Trial(S.target("synthetic:0.6"), method, S.backbone, seed, source) for seed in SEEDS]


def test_scratch_then_probe_then_fine_tuning(tmp_path):
    lab, source = Lab(tmp_path, workers=1), S.source_of()  # three pools of processes would each import torch
    arms = [lab.run(arm(*how))["accuracy"] for how in ((S.scratch, None), (Probe(), source), (S.finetune, source))]
    for worse, better in pairwise(arms):
        found = effect(better - worse)
        assert found.low > 0, f"{found.mean:+.3f} [{found.low:.3f}, {found.high:.3f}]"
    assert arms[0].mean() > 2 / 20  # of twenty classes: scratch learns too
