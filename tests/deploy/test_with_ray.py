"""A search as Slurm and `ray job submit` run it, with Ray nodes on this machine's loopback address.

`srun` and `scontrol` are stand-ins: both nodes of the Slurm job are this machine.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.ray_processes import SPACE
from tests.in_process import other_process
from tests.pair_files import draw_xrays
from tests.study.studies import ended_trials
from xraytune.study.folder import StudyFolder

SBATCH = Path(__file__).parents[2] / "deploy/search.sbatch"
PROGRAMS = Path(sys.executable).parent
SRUN = """\
#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
echo "$*" >> "$STEPS"
exec "$@"
"""
SCONTROL = """\
#!/usr/bin/env bash
[ "$*" = "show hostnames nodes[1-2]" ] && printf 'localhost\\n127.0.0.1\\n'
"""


def free_port(first: int) -> int:
    for port in range(first, first + 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")


@contextmanager
def running(
    command: list[str], env: dict[str, str], log: Path
) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Run a command with its output in `log`, and give a function that waits for an event."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)

    def wait_for(event: Callable[[], object]) -> None:
        while not event():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)

    try:
        yield wait_for
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        with log.open("a", encoding="utf-8") as output:
            output.write(f"exit code {process.returncode}\n")


@pytest.mark.nightly
@pytest.mark.ray
def test_search_that_slurm_stops_at_its_time_limit_is_resumed_by_a_ray_job(tmp_path: Path) -> None:
    draw_xrays(tmp_path, patients=20)
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.replace("budget: {trials: 1,", "budget: {trials: 2,"))
    study = StudyFolder(tmp_path / "studies/killed")
    of_search = f"--space={space} --studies={study.path.parent} --set=source=none".split()
    options = [*of_search, "--set=scheduler={name: none}"]
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join((str(tmp_path), str(PROGRAMS), os.environ["PATH"]))

    job = free_port(20_000) - 20_000
    slurm = {
        "SLURM_JOB_ID": f"{job}",
        "SLURM_JOB_NODELIST": "nodes[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
    }
    env = os.environ | slurm | {"PATH": path, "STEPS": str(tmp_path / "steps")}
    with running([str(SBATCH), *options], env, tmp_path / "slurm.log") as wait_for:
        wait_for(lambda: [*study.path.glob("trials/*/epochs.jsonl")])

    log = (tmp_path / "slurm.log").read_text()
    lines = (tmp_path / "steps").read_text().splitlines()
    steps = [" ".join(line.split()[:3]) for line in lines]
    address = f"--address=127.0.0.1:{20_000 + job}"
    assert log.endswith("exit code 130\n"), log
    assert log.count("Ray runtime started.") == 2
    folder = steps[-1].removeprefix("rm -rf ")
    assert steps == [
        "getent ahostsv4 localhost",
        "mkdir -m 700",
        "ray start --head",
        f"ray start {address}",
        steps[-1],
    ]
    assert re.fullmatch("/tmp/xray-[0-9a-f]{8}", folder), "a name that nobody can take before"
    assert not Path(folder).exists()
    assert ended_trials(study) == {}

    dashboard = f"http://127.0.0.1:{free_port(22_000)}"
    with tempfile.TemporaryDirectory(prefix="xray-", dir="/tmp") as temporary:
        env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        }
        ports = f"--port={free_port(23_000)} --dashboard-port={dashboard.rpartition(':')[2]}"
        where = f"--node-ip-address=127.0.0.1 --num-cpus=2 --temp-dir={temporary}/ray"
        start = f"ray start --head --block {where} {ports} --dashboard-agent-listen-port=0"
        log_file = tmp_path / "head.log"
        with running(f"{PROGRAMS}/{start}".split(), env, log_file) as wait_for:
            wait_for(lambda: "Ray runtime started." in log_file.read_text())
            submit = f"{PROGRAMS}/ray job submit --address={dashboard} --"
            search = f"{submit} {PROGRAMS}/xraytune search --address=auto"
            done = other_process(search, *options, env=env)

    assert done.returncode == 0, done.stdout + done.stderr
    assert [(row.status, row.epochs) for row in ended_trials(study).values()] == [
        ("complete", 12)
    ] * 2
    for epochs in study.path.glob("trials/*/epochs.jsonl"):
        assert len(epochs.read_text().splitlines()) == 12, "no epoch was trained twice"
