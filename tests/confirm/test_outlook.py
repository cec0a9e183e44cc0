"""What `plan` finds on this machine."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.in_process import PROGRAM, command, other_process
from xraytune.base.errors import DataError
from xraytune.confirm.outlook import study_outlook
from xraytune.space.task_settings import PACKAGES


def test_plan_checks_the_machine_and_the_weights_of_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for weights that a condition leaves at their default; no images are needed for that."""
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    monkeypatch.setitem(PACKAGES, "classification", ("numpy", "no-such-package"))
    space = tmp_path / "space.yaml"
    space.write_text(
        """
name: small
data: {path: xrays}
weights_dir: files
parameters:
  source: {value: none}
  backbone: {values: [resnet18, resnet34, vgg16]}
  weights: {values: [IMAGENET1K_FEATURES, none], when: {backbone: vgg16}}
""",
    )
    (tmp_path / "files").mkdir()
    (tmp_path / "files/resnet18-f37072fd.pth").write_bytes(b"weights")

    outlook = study_outlook(space=space, cache=tmp_path / "not/yet")
    checks = {check.name: check for check in outlook.checks}

    assert checks["torch"].status == checks["ray"].status == "ok"
    assert checks["Ray startup"].status == "missing"
    assert checks["Ray startup"].fix.startswith("export RAY_TMPDIR=")
    assert checks["packages"].status == "missing"
    assert "needs no-such-package" in checks["packages"].found
    assert checks["images"].found == f"there is no {tmp_path / 'xrays'}"
    assert (outlook.is_ready, outlook.design) == (False, None)
    assert any(name.startswith("free disk at") for name in checks)
    assert all(bool(check.fix) == (check.status != "ok") for check in checks.values())
    weights = {
        name.removeprefix("weights of "): check
        for name, check in checks.items()
        if name.startswith("weights")
    }
    assert {*weights} == {
        *("resnet18, imagenet", "resnet34, imagenet"),
        *("vgg16, IMAGENET1K_FEATURES", "vgg16, none"),
    }
    assert weights["resnet18, imagenet"].found.endswith("resnet18-f37072fd.pth")
    assert "its SHA-256 does not match its name" in weights["resnet18, imagenet"].found
    assert "no official weights" in weights["resnet34, imagenet"].found
    assert (
        "put resnet34-b627a593.pth there (from https://download.pytorch.org/models/)"
        in weights["resnet34, imagenet"].fix
    )
    assert "vgg16_features-amdegroot-88682ab5.pth" in weights["vgg16, IMAGENET1K_FEATURES"].fix
    assert weights["vgg16, none"].status == "ok"


@pytest.mark.parametrize("package", ["torch", "ray"])
def test_plan_names_why_a_package_cannot_be_imported(tmp_path: Path, package: str) -> None:
    why = "libc.so.6: version `GLIBC_2.99' not found"
    (tmp_path / package).mkdir()
    broken = tmp_path / package / "__init__.py"
    broken.write_text(f'raise ImportError("{why}")')
    path = os.pathsep.join([str(tmp_path), *sys.path])

    done = other_process(f"{PROGRAM} plan --json", env={**os.environ, "PYTHONPATH": path})

    assert done.returncode == 4, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert (checks[package]["status"], checks[package]["found"]) == (
        "missing",
        f"ImportError: {why}",
    )
    assert checks.keys() >= {"torch", "ray", "Ray startup", "/dev/shm"}


def test_without_a_space_plan_checks_the_machine_alone(tmp_path: Path) -> None:
    shown = command("plan", "--cache", tmp_path)
    refused = command("plan", "--data", tmp_path / "nothing")

    assert "free disk at" in shown.stdout
    assert "xraytune demo" in shown.stdout
    assert (refused.exit_code, list(tmp_path.iterdir())) == (DataError.exit_code, [])
    assert "there is no such folder" in refused.stderr
