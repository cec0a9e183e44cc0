"""What Ray needs of a machine before it can start there: looked at without Ray, which fails late and in other words."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from xraytune.errors import Problem

_MIB = 2**20
_LITTLE_MIB = 16  # with 4 it starts, with 1 it does not
_LONGEST_SOCKET_BYTES = 107
_SOCKET = "session_2026-01-31_23-59-59_123456_{pid}/sockets/dash_MetricsHead"
"""The longest of those that Ray opens."""


def why_ray_cannot_start() -> Problem | None:
    """What keeps Ray from starting on this machine, if anything does; nothing that is written for it stays."""
    folder = ray_folder()
    other = "export RAY_TMPDIR=/tmp" if folder != Path("/tmp/ray") else "export RAY_TMPDIR=DIR, of a short path"
    socket = folder / _SOCKET.format(pid=os.getpid())
    if (excess := len(os.fsencode(socket)) - _LONGEST_SOCKET_BYTES) > 0:
        return Problem(f"the path of Ray's temporary folder is {excess} bytes too long", folder, other)
    if why := _unwritable(folder):
        return Problem(f"Ray cannot write its temporary folder ({why})", folder, other)
    room = shutil.disk_usage(_existing(folder))
    if room.total and room.free < _LITTLE_MIB * _MIB:  # some file systems do not tell
        what = f"Ray's temporary folder has {room.free // _MIB} MiB of room, and needs {_LITTLE_MIB}"
        return Problem(what, folder, f"make room there, or {other}")
    return _why_no_token()


def ray_folder() -> Path:
    """Where Ray puts its logs and sockets."""
    usual = os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp"  # as Ray has it
    return Path(os.environ.get("RAY_TMPDIR", usual), "ray")


def _why_no_token() -> Problem | None:
    """Ray makes `~/.ray/auth_token`, unless it is there or the environment has another."""
    has_other = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if has_other or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return None
    fix = "export HOME=DIR, of a folder that you may write"
    try:
        token = Path.home() / ".ray" / "auth_token"
    except RuntimeError:  # neither HOME nor a user of this machine
        return Problem("Ray cannot write its token: there is no home folder", "HOME", fix)
    if os.access(token, os.R_OK) or not (why := _unwritable(token.parent)):
        return None
    return Problem(f"Ray cannot write its token ({why})", token, fix)


def _unwritable(folder: Path) -> str:
    """Why nothing can be made in a folder, which may not be there yet; empty where something can."""
    try:
        tempfile.TemporaryDirectory(dir=_existing(folder)).cleanup()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.access(path, os.F_OK))
