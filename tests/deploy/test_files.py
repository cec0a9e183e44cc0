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

from tests.docs.test_blocks import parse
from tests.faults.test_cluster import HEALTH

ROOT = Path(__file__).parents[2]
COMPOSE, RAYJOB, SBATCH = (
    (ROOT / file).read_text(encoding="utf-8")
    for file in ("docker/compose.yaml", "deploy/rayjob.yaml", "deploy/search.sbatch")
)
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
JOB: dict[str, Any] = yaml.safe_load(RAYJOB)
CLUSTER: dict[str, Any] = JOB["spec"]["rayClusterSpec"]
PODS: list[dict[str, Any]] = [
    container
    for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])
    for container in group["template"]["spec"]["containers"]
]
"""The container of the head and that of the workers."""


@pytest.mark.slow
def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [ROOT / name for name in ("deploy/search.sbatch", ".ci/run", ".ci/release-check")]
    shellcheck = Path(sys.executable).with_name("shellcheck")

    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)

    assert done.stdout + done.stderr == ""


def test_failed_nodes_are_noticed_within_seconds_in_every_environment() -> None:
    """The settings of docs/cluster.md, which tests/faults/test_cluster.py measures."""
    expected = {f"RAY_{name}": str(value) for name, value in HEALTH.items()}
    environments: list[dict[str, Any]] = [service["environment"] for service in SERVICES.values()]
    environments += [{item["name"]: item["value"] for item in container["env"]} for container in PODS]
    environments.append(dict(re.findall(r"\b(RAY_\w+_\w+)=(\d+)\b", SBATCH)))

    for environment in environments:
        assert {name: str(environment.get(name)) for name in expected} == expected


def test_containers_of_compose_share_folders_and_token_and_only_the_dashboard_is_published_locally() -> None:
    head, *workers = SERVICES.values()

    assert len(workers) == 2
    for shared in ("volumes", "secrets", "image", "user"):
        assert [worker[shared] for worker in workers] == [head[shared]] * 2
    assert (head["ports"], [worker.get("ports") for worker in workers]) == (["127.0.0.1:8265:8265"], [None, None])
    assert head["environment"]["RAY_AUTH_MODE"] == "token"
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in SERVICES.values())


def test_commands_in_the_files_have_options_that_exist() -> None:
    """Parsing fails for an option that does not exist."""
    in_compose = re.search(r"exec head xraytune (search .*?--address head:6379)", re.sub(r"\\?\n# +", " ", COMPOSE))
    assert in_compose is not None
    program, *words = shlex.split(JOB["spec"]["entrypoint"])

    assert program == "xraytune"
    assert parse(shlex.split(in_compose[1])).params["address"] == "head:6379"
    assert str(parse(words).params["studies"]) == "/shared/studies"
    with pytest.raises(Exception, match="No such option"):
        parse([word.replace("--studies", "--studdies") for word in words])


def test_rayjob_names_the_ray_release_of_the_lock_file_and_deletes_its_pods_but_not_the_studies() -> None:
    """Its image is a variable, named once."""
    ray = re.search(r"^ray==(\S+)", LOCK, re.MULTILINE)
    instructions = re.sub(r"(?m)^#.*", "", RAYJOB)
    claim = yaml.safe_load((ROOT / "deploy" / "shared-storage.yaml").read_text(encoding="utf-8"))
    head, worker = PODS

    assert ray is not None
    assert CLUSTER["rayVersion"] == ray[1]
    assert instructions.count("$") == instructions.count("${XRAYTUNE_IMAGE}") == 1
    assert JOB["kind"] == "RayJob", "one object: deleting it deletes no volume"
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for container in PODS:
        assert container["image"] == "${XRAYTUNE_IMAGE}"
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == worker["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in head["resources"]["limits"]


def test_lock_file_names_are_those_that_the_image_leaves_out() -> None:
    """Else an image for CPUs would download CUDA, and every image triton."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    left_out = re.search(r"left_out='(.+)'", dockerfile)
    assert left_out is not None

    names = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==", LOCK)
    found = {name for name in names if re.fullmatch(left_out[1], name)}

    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"} <= found
    assert not {"torchmetrics", "ray", "numpy"} & found
