"""How many cores are ours."""

import pytest

from transferlab import cores as cores_of


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, float("inf")),
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),  # of a group around ours
        ("0::/../../elsewhere\n", {"cpu.max": "200000 100000"}, 2.0),
        (
            "5:cpu,cpuacct:/docker/x\n1:name=systemd:/y\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        ("5:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, float("inf")),
        (None, {}, float("inf")),
    ],
)
def test_the_quota_of_a_container(tmp_path, groups, files, quota):
    if groups:
        (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    assert cores_of.cpu_quota(tmp_path / "cgroup", tmp_path / "fs") == quota


@pytest.mark.parametrize(
    ("cores", "quota", "threads", "workers"),
    [(64, float("inf"), 1, 64), (64, 4.0, 1, 4), (64, 2.5, 1, 3), (64, 0.5, 1, 1), (2, 8.0, 1, 2), (64, 4.0, 3, 1)],
)
def test_workers_are_those_that_the_quota_feeds(monkeypatch, cores, quota, threads, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(cores_of, "cpu_quota", lambda: quota)
    assert cores_of.cpu_workers(threads) == workers
