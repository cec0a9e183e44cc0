"""The files that start xraytune elsewhere, without the systems that they are for."""

from __future__ import annotations

import re
import shlex

import yaml

from tests.docs.commands import ROOT, parse

COMPOSE = (ROOT / "docker/compose.yaml").read_text("utf-8")
RAYJOB = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text("utf-8"))
LOCK = (ROOT / "requirements.lock").read_text("utf-8")


def test_commands_in_the_files_have_options_that_exist() -> None:
    """Parsing fails for an option that does not exist."""
    in_compose = re.search(
        r"exec head xraytune (search .*?--address head:6379)", re.sub(r"\\?\n# +", " ", COMPOSE)
    )
    assert in_compose is not None
    program, *words = shlex.split(RAYJOB["spec"]["entrypoint"])

    assert program == "xraytune"
    assert parse(shlex.split(in_compose[1])).params["address"] == "head:6379"
    assert str(parse(words).params["studies"]) == "/shared/studies"


def test_rayjob_names_the_ray_release_of_the_lock_file() -> None:
    release = re.search(r"^ray==(\S+)", LOCK, re.MULTILINE)

    assert release is not None
    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == release[1]


def test_packages_that_the_image_leaves_out_are_those_of_the_gpu() -> None:
    """Otherwise, an image for CPUs would download CUDA."""
    dockerfile = (ROOT / "docker/Dockerfile").read_text("utf-8")
    pattern = re.search(r"left_out='(.+)'", dockerfile)
    assert pattern is not None

    packages = re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==", LOCK)
    left_out = {name for name in packages if re.fullmatch(pattern[1], name)}

    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"} <= left_out
    assert not {"ray", "numpy"} & left_out
