"""Where W&B finds its key, and which secrets are masked in messages."""

from pathlib import Path

import pytest

from xraytune.search.wandb import has_key, is_online, without_secrets
from xraytune.space.settings import WandbSettings


@pytest.mark.parametrize(
    ("content", "variables", "is_found"),
    [
        ("", {}, False),
        ("", {"WANDB_API_KEY": ""}, False),
        ("", {"WANDB_API_KEY": "x"}, True),
        ("machine api.wandb.ai\n  login user\n  password x\n", {}, True),
        ("machine api.forge.coreweave.com\n  login user\n  password x\n", {}, True),
        ("machine wandb.hospital.org login user password x\n", {}, False),
        (
            "machine wandb.hospital.org login user password x\n",
            {"WANDB_BASE_URL": "https://wandb.hospital.org/"},
            True,
        ),
        ("\udcff\udcfe\0", {}, False),
        ("machine api.wandb.ai login", {}, False),
        ("nonsense here\n", {}, False),
    ],
)
@pytest.mark.parametrize("name", [".netrc", "logins"])
def test_a_key_is_found_in_the_environment_or_in_a_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, variables: dict[str, str], is_found: bool
) -> None:
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    if name != ".netrc":
        monkeypatch.setenv("NETRC", str(tmp_path / name))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)

    assert has_key() == is_found


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
