"""The checks of `doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.search.ray.test_runner import STARTS, cluster_with
from xraytune.config.load import load_space
from xraytune.config.settings import PACKAGES
from xraytune.config.space import require_extensions
from xraytune.errors import MachineError
from xraytune.export.doctor import doctor, probe


def test_a_failing_import_is_reported_with_its_reason() -> None:
    check = probe("gone", "import no_such_module_anywhere", fix="install it")

    assert (check.status, check.fix) == ("missing", "install it")
    assert check.found == "ModuleNotFoundError: No module named 'no_such_module_anywhere'"


def test_a_working_import_reports_its_version() -> None:
    check = probe("here", "print('noise')\nprint('version 3')", fix="install it")

    assert (check.status, check.found, check.fix) == ("ok", "version 3", "")


@pytest.mark.slow
def test_doctor_checks_machine_without_showing_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for weights that a condition leaves at their default; the images of the file are not needed."""
    monkeypatch.setenv("WANDB_API_KEY", "not-to-be-shown")
    space = tmp_path / "space.yaml"
    space.write_text(
        """
name: small
weights_dir: files
parameters:
  backbone: {values: [resnet18, resnet34, vgg16]}
  weights: {values: [IMAGENET1K_FEATURES, none], when: {backbone: vgg16}}
""",
        encoding="utf-8",
    )
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "resnet18-f37072fd.pth").write_bytes(b"damaged")

    checks = {check.name: check for check in doctor(space=space, folder=tmp_path / "not" / "yet")}

    assert checks["torch"].status == checks["Ray"].status == checks["W&B"].status == "ok"
    assert "open files" in checks["limits"].found
    assert any(name.startswith("free inodes at") for name in checks)
    assert all(bool(check.fix) == (check.status != "ok") for check in checks.values())
    assert "not-to-be-shown" not in str(checks)
    weights = {name.removeprefix("weights of "): check for name, check in checks.items() if name.startswith("weights")}
    assert {*weights} == {"resnet18", "resnet34", "vgg16, IMAGENET1K_FEATURES", "vgg16, none"}
    assert "hash" in weights["resnet18"].found
    assert "no official weights" in weights["resnet34"].found
    assert "put resnet34-b627a593.pth there (from https://download.pytorch.org/models/)" in weights["resnet34"].fix
    assert "vgg16_features-amdegroot-88682ab5.pth" in weights["vgg16, IMAGENET1K_FEATURES"].fix
    assert weights["vgg16, none"].status == "ok"


@pytest.mark.parametrize(("key", "extra"), [("task", "segmentation"), ("source", "diffusion")])
@pytest.mark.slow
def test_a_missing_extra_is_found_by_doctor_and_before_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, extra: str
) -> None:
    monkeypatch.setitem(PACKAGES, extra, ("numpy", "no-such-package"))
    space = tmp_path / "space.yaml"
    task, source = (extra, "none") if key == "task" else ("classification", extra)
    parameters = f"source: {{value: {source}}}, backbone: {{value: resnet18}}, weights: {{value: none}}"
    space.write_text(f"name: small\ntask: {task}\nparameters: {{{parameters}}}\n", encoding="utf-8")

    checks = {check.name: check for check in doctor(space=space, folder=tmp_path)}
    with pytest.raises(MachineError) as refused:
        require_extensions(load_space(space, data=tmp_path))

    assert (checks[extra].status, checks[extra].found) == ("missing", "not installed: no-such-package")
    assert str(refused.value) == (
        f"{key}: {extra} needs no-such-package, which this installation lacks\n  fix: pip install 'xraytune[{extra}]'"
    )


FACTS: dict[str, Any] = {
    "versions": {},
    "probe": "",
    "limit": "",
    "shared_memory_bytes": 2**31,
    "ahead_seconds": 0.1,
}


@pytest.mark.slow
def test_doctor_compares_the_nodes_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fault names its node and has a fix; a good node is not named."""
    from xraytune.search.ray.actor import versions

    good = FACTS | {"versions": versions()}
    nodes = {
        "good": good,
        "old": good | {"versions": versions() | {"torch": "1.0"}},
        "alone": good,
        "late": good | {"ahead_seconds": -7.0},
        "small": good | {"limit": "Ray needs more files", "shared_memory_bytes": 2**26},
        "silent": {"problem": "no answer"},
    }
    starts = STARTS.rpartition("receive(connection)")[0]
    (tmp_path / "driver.py").write_text(
        f"""{starts}
from pathlib import Path
probe, nodes = receive(connection)["inspect"], {nodes!r}
for name in nodes:
    nodes[name]["probe"] = "" if name == "alone" else Path(probe).read_text()
send(connection, nodes)
""",
        encoding="utf-8",
    )
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/driver.py "$4"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))

    checks = {check.name: check for check in doctor(address="head:6379", folder=tmp_path)}

    here = versions()["torch"]
    shared = f"shared {tmp_path}"
    found = {name: (check.status, check.found) for name, check in checks.items() if name != "dashboard"}
    assert found == {
        "nodes": ("missing", "silent: no answer"),
        "versions": ("missing", f"old: torch 1.0, not {here}"),
        shared: ("missing", "alone: it does not see a file written here"),
        "clocks": ("warning", "late: -7 s from this machine"),
        "limits": ("warning", "small: Ray needs more files"),
        "shared memory": ("warning", "small: 0.06 GiB"),
    }
    assert checks["dashboard"].status == "warning", "the address is empty"
    assert all(check.fix for check in checks.values())
    assert not [*tmp_path.glob(".doctor-*")]


@pytest.fixture
def own_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder without a token, and one in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the cluster's")


JOIN = 'mount -t tmpfs none "$1" && exec "$2" start --address="$3" --num-cpus=1 --block'


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("own_token")
def test_doctor_finds_a_folder_that_a_node_does_not_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two nodes has another disk at the folder. Another token gets one clear error."""
    can_mount = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if can_mount.returncode:
        pytest.skip(f"a node with another disk cannot be started here: {can_mount.stderr.strip()}")
    shared, ray = tmp_path / "shared", Path(sys.executable).with_name("ray")
    shared.mkdir()
    with cluster_with("the cluster's") as address:
        join = ["unshare", "--mount", "sh", "-c", JOIN, "sh", str(shared), str(ray), address]
        environment = {**os.environ, "RAY_AUTH_MODE": "token"}
        with subprocess.Popen(join, env=environment, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdout
            assert any("Ray runtime started" in line for line in node.stdout)
            checks = {check.name: check for check in doctor(address=address, folder=shared / "studies")}
            monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
            with pytest.raises(MachineError) as refusal:
                doctor(address=address, folder=shared)
            node.terminate()

    private = checks.pop(f"shared {shared / 'studies'}")
    assert private.status == "missing"
    assert private.found.endswith(": it does not see a file written here")
    assert "\n" not in private.found, "the other node shares it"
    assert {
        name: (check.status, check.found) for name, check in checks.items() if name not in {"limits", "dashboard"}
    } == dict.fromkeys(("nodes", "versions", "clocks", "shared memory"), ("ok", "nodes: 2"))
    assert checks["dashboard"].status == "ok"
    assert "the Ray cluster requires a token, but this machine has another one" in str(refusal.value)
    assert not [*shared.iterdir()]


def test_a_missing_tensorboardx_is_reported_before_a_search_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, "tensorboard", ("no-such-package",))
    space = tmp_path / "space.yaml"
    space.write_text(
        "name: small\nparameters: {backbone: {value: small_cnn}, weights: {value: none}}\n", encoding="utf-8"
    )

    require_extensions(load_space(space, data=tmp_path))
    with pytest.raises(MachineError) as refused:
        require_extensions(load_space(space, ["tracking.tensorboard=true"], data=tmp_path))

    assert str(refused.value) == (
        "tracking.tensorboard: true needs no-such-package, which this installation lacks\n"
        "  fix: pip install 'xraytune[tensorboard]'"
    )
