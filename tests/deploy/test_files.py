"""The files that start xraytune elsewhere: what they promise, without the systems that they are for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.test_blocks import parse as parse_words
from tests.faults.test_cluster import HEALTH

ROOT = Path(__file__).parents[2]
COMPOSE, RAYJOB, SBATCH = (
    ROOT / file for file in ("docker/compose.yaml", "deploy/rayjob.yaml", "deploy/search.sbatch")
)


def services() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return content


def ray_job() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))
    return content


def pods() -> list[dict[str, Any]]:
    """The container of the head and that of the workers."""
    cluster = ray_job()["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def parse(command: str) -> dict[str, Any]:
    """Parse a command of xraytune without running it; fails for an option that does not exist."""
    program, *words = shlex.split(command)
    assert program == "xraytune"
    parameters: dict[str, Any] = parse_words(words).params
    return parameters


@pytest.mark.slow
def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [SBATCH, ROOT / ".ci" / "run", ROOT / ".ci" / "release-check"]
    shellcheck = Path(sys.executable).with_name("shellcheck")

    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)

    assert done.stdout + done.stderr == ""


def test_failed_nodes_are_noticed_within_seconds_in_every_environment() -> None:
    """The settings of docs/cluster.md, which tests/faults/test_cluster.py measures."""
    expected = {f"RAY_{name}": str(value) for name, value in HEALTH.items()}
    environments: list[dict[str, Any]] = [service["environment"] for service in services().values()]
    environments += [{item["name"]: item["value"] for item in container["env"]} for container in pods()]
    environments.append(dict(re.findall(r"\b(RAY_\w+_\w+)=(\d+)\b", SBATCH.read_text(encoding="utf-8"))))

    assert [{name: str(found.get(name)) for name in expected} for found in environments] == [expected] * len(
        environments
    )


def test_containers_of_compose_share_folders_and_token_and_only_the_dashboard_is_published_locally() -> None:
    head, *workers = services().values()

    assert len(workers) == 2
    for shared in ("volumes", "secrets", "image", "user"):
        assert [worker[shared] for worker in workers] == [head[shared]] * 2
    assert (head["ports"], [worker.get("ports") for worker in workers]) == (["127.0.0.1:8265:8265"], [None, None])
    assert head["environment"]["RAY_AUTH_MODE"] == "token"
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in services().values())


def test_commands_in_the_files_have_options_that_exist() -> None:
    comments = re.sub(r"\\?\n# +", " ", COMPOSE.read_text(encoding="utf-8"))
    in_compose = re.search(r"exec head (xraytune search .*?--address head:6379)", comments)
    assert in_compose is not None
    job = ray_job()["spec"]["entrypoint"]

    assert parse(in_compose[1])["address"] == "head:6379"
    assert str(parse(job)["studies"]) == "/shared/studies"
    with pytest.raises(Exception, match="No such option"):
        parse(job.replace("--studies", "--studdies"))


def test_rayjob_names_the_image_once_as_a_variable_and_the_ray_release_of_the_lock_file() -> None:
    ray = re.search(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    instructions = re.sub(r"(?m)^#.*", "", RAYJOB.read_text(encoding="utf-8"))

    assert instructions.count("$") == instructions.count("${XRAYTUNE_IMAGE}") == 1
    assert {container["image"] for container in pods()} == {"${XRAYTUNE_IMAGE}"}
    assert ray is not None
    assert ray_job()["spec"]["rayClusterSpec"]["rayVersion"] == ray[1]


def test_rayjob_deletes_its_pods_and_leaves_the_studies() -> None:
    job = ray_job()
    claim = yaml.safe_load((ROOT / "deploy" / "shared-storage.yaml").read_text(encoding="utf-8"))
    head, worker = pods()

    assert job["kind"] == "RayJob", "one object: deleting it deletes no volume"
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for container in (head, worker):
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == worker["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in head["resources"]["limits"]


def test_lock_file_names_are_those_that_the_image_leaves_out() -> None:
    """Else an image for CPUs would download CUDA, and every image triton."""
    names = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    left_out = re.search(r"left_out='(.+)'", dockerfile)
    assert left_out is not None

    found = {name for name in names if re.fullmatch(left_out[1], name)}

    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"} <= found
    assert not {"torchmetrics", "ray", "numpy"} & found
