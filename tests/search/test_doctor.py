"""The checks of `doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from xraytune.base.errors import MachineError
from xraytune.search.doctor import doctor, probe
from xraytune.space.load import load_space
from xraytune.space.settings import PACKAGES
from xraytune.space.space import require_extensions


def test_an_import_is_reported_with_its_version_or_the_reason_of_its_failure() -> None:
    here, gone = (
        probe("here", "print('noise')\nprint('version 3')"),
        probe("gone", "import no_such_module_anywhere"),
    )

    assert (here.status, here.found, here.fix) == ("ok", "version 3", "")
    assert (gone.status, gone.found) == (
        "missing",
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    )
    assert "reinstall" in gone.fix


@pytest.mark.slow
def test_doctor_checks_the_machine_and_the_weights_of_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for weights that a condition leaves at their default; the images of the file are not needed."""
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{'s' * 80}")
    monkeypatch.setitem(PACKAGES, "classification", ("numpy", "no-such-package"))
    space = tmp_path / "space.yaml"
    space.write_text(
        """
name: small
weights_dir: files
parameters:
  source: {value: none}
  backbone: {values: [resnet18, resnet34, vgg16]}
  weights: {values: [IMAGENET1K_FEATURES, none], when: {backbone: vgg16}}
""",
        encoding="utf-8",
    )
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "resnet18-f37072fd.pth").write_bytes(b"damaged")

    checks = {check.name: check for check in doctor(space=space, folder=tmp_path / "not" / "yet")}

    assert checks["torch"].status == checks["Ray"].status == "ok"
    assert (checks["Ray startup"].status, checks["Ray startup"].fix) == (
        "missing",
        "export RAY_TMPDIR=/tmp",
    )
    assert checks["packages"].status == "missing"
    assert "needs no-such-package" in checks["packages"].found
    assert any(name.startswith("free disk at") for name in checks)
    assert all(bool(check.fix) == (check.status != "ok") for check in checks.values())
    weights = {
        name.removeprefix("weights of "): check
        for name, check in checks.items()
        if name.startswith("weights")
    }
    assert {*weights} == {"resnet18", "resnet34", "vgg16, IMAGENET1K_FEATURES", "vgg16, none"}
    assert "hash" in weights["resnet18"].found
    assert "no official weights" in weights["resnet34"].found
    assert (
        "put resnet34-b627a593.pth there (from https://download.pytorch.org/models/)"
        in weights["resnet34"].fix
    )
    assert "vgg16_features-amdegroot-88682ab5.pth" in weights["vgg16, IMAGENET1K_FEATURES"].fix
    assert weights["vgg16, none"].status == "ok"


@pytest.mark.parametrize(
    "overrides",
    [["task=segmentation", "backbone=resnet18"], ["backbone=timm/resnet18", "weights=hub"]],
)
def test_missing_extras_are_refused_before_a_search(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for extra in ("segmentation", "timm"):
        monkeypatch.setitem(PACKAGES, extra, ("numpy", "no-such-package"))

    with pytest.raises(MachineError, match=r"needs no-such-package(.|\n)*pip install 'xraytune\["):
        require_extensions(load_space(Path("final_cpu"), overrides, data=tmp_path))
