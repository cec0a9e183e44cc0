"""Studies of phantoms that are searched and confirmed in this process, without Ray."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tests.in_process import confirm_in_process, search_in_process
from xraytune.cli.results import show_confirmation
from xraytune.confirm.run import confirm
from xraytune.space.load import load_space


def search_space(root: Path, space: str, **where: Any) -> Path:
    """Search a space with these images, and return the study."""
    file = root / "space.yaml"
    file.write_text(space, encoding="utf-8")
    return search_in_process(load_space(file, **where), root).path


def show_confirmed(study: Path, **options: Any) -> str:
    """Confirm a study, and return what the command prints."""
    shown = io.StringIO()
    with confirm_in_process(), redirect_stdout(shown):
        show_confirmation(confirm(study, **options), {})
    return shown.getvalue()
