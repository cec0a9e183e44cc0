"""W&B's key: whether there is one, and how it stays out of what is said."""

from __future__ import annotations

import netrc
import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from xraytune.config.settings import WandbSettings

_HOSTS = ("https://api.wandb.ai", "https://api.forge.coreweave.com")
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_CHARACTERS = 6  # shorter values are no secrets, and stand in many a word
_CREDENTIALS_IN_URL = re.compile(r"//[^/\s]+@")


def is_online(settings: WandbSettings) -> bool:
    """Whether runs go to the server: as the settings say, or with `auto` where there is a key and nobody said offline."""
    if settings.mode == "auto":
        return has_key() and os.environ.get("WANDB_MODE", "online") == "online"
    return settings.mode == "online"


def has_key() -> bool:
    """Whether W&B would find a key: in the environment, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc").expanduser()
    hosts = [os.environ.get("WANDB_BASE_URL", ""), *_HOSTS]
    with suppress(OSError, ValueError, netrc.NetrcParseError):
        logins = netrc.netrc(file).hosts
        return any(logins.get(urlsplit(url).netloc, ("", "", ""))[2] for url in hosts)
    return False


def without_secrets(text: str) -> str:
    """The text without the values of secret environment variables, and without passwords in addresses."""
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_NAMES.search(name):
            text = text.replace(value, "***")
    return _CREDENTIALS_IN_URL.sub("//***@", text)
