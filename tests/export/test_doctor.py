"""What `doctor` finds on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from xraytune.export.doctor import doctor, probe


def test_an_import_that_fails_is_told_with_its_reason() -> None:
    check = probe("gone", "import no_such_module_anywhere", fix="install it")

    assert (check.status, check.fix) == ("missing", "install it")
    assert check.found == "ModuleNotFoundError: No module named 'no_such_module_anywhere'"


def test_an_import_that_works_says_what_is_there() -> None:
    check = probe("here", "print('noise')\nprint('version 3')", fix="install it")

    assert (check.status, check.found, check.fix) == ("ok", "version 3", "")


@pytest.mark.slow
def test_a_machine_is_looked_at_without_showing_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not-to-be-shown")
    (tmp_path / "resnet18-f37072fd.pth").write_bytes(b"damaged")

    checks = {check.name: check for check in doctor(weights_dir=tmp_path, folder=tmp_path / "not" / "yet")}

    assert checks["torch"].status == checks["Ray"].status == checks["W&B"].status == "ok"
    assert "hash" in checks["weights of resnet18"].found
    assert "no official weights" in checks["weights of resnet50"].found
    assert all(bool(check.fix) == (check.status != "ok") for check in checks.values())
    assert "not-to-be-shown" not in str(checks)
