"""The cores that a container or a scheduler allows."""

import math
from pathlib import Path

import pytest

from xraytune.base.cores import quota_cores


@pytest.mark.parametrize(
    ("own", "quotas", "cores"),
    [
        ("0::/slurm/job", {"slurm/cpu.max": "150000 100000", "slurm/job/cpu.max": "max 100000"}, 2),
        (
            "4:memory:/job\n3:cpu,cpuacct:/job",
            {
                "cpu,cpuacct/job/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            "3:cpu:/",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        ("0::/", {"cpu.max": ""}, math.inf),
        ("0::/of a machine without cgroups", {}, math.inf),
    ],
)
def test_quotas_of_a_process_and_of_the_groups_above_it_count(
    tmp_path: Path, own: str, quotas: dict[str, str], cores: float
) -> None:
    files = {"proc/self/cgroup": own}
    files |= {f"sys/fs/cgroup/{name}": quota for name, quota in quotas.items()}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")

    assert quota_cores(tmp_path) == cores
