"""Where W&B finds its key, and which secrets are masked in messages."""

from pathlib import Path

import pytest

from xraytune.search.wandb import has_key, is_online, without_secrets
from xraytune.space.settings import WandbSettings


@pytest.mark.parametrize("host", ["api.wandb.ai", "api.forge.coreweave.com"])
def test_a_key_is_found_in_a_netrc(tmp_path: Path, host: str) -> None:
    assert not has_key()
    (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password x\n", encoding="utf-8")
    assert has_key()


def test_a_key_is_found_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()


def test_a_key_for_a_custom_server_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logins").write_text("machine wandb.hospital.org login user password x\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    assert not has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.hospital.org/")
    assert has_key()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"machine api.wandb.ai login", b"nonsense here\n"])
def test_a_netrc_that_cannot_be_read_holds_no_key(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".netrc").write_bytes(content)
    assert not has_key()


def test_auto_is_online_with_a_key_unless_wandb_mode_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, online, offline = (WandbSettings(mode=mode) for mode in ("auto", "online", "offline"))
    assert [is_online(settings) for settings in (auto, online, offline)] == [False, True, False]
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert [is_online(settings) for settings in (auto, online, offline)] == [True, True, False]
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert [is_online(settings) for settings in (auto, online, offline)] == [False, True, False]


def test_secrets_are_masked_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSPITAL_TOKEN", "hidden1")
    monkeypatch.setenv("A_SHORT_KEY", "no")

    masked = without_secrets("hidden1: no way to https://me:pass@proxy.org:3128/x or https://wandb.org/me@home")

    assert masked == "***: no way to https://***@proxy.org:3128/x or https://wandb.org/me@home"
