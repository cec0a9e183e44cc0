"""Where an exception becomes an exit code: every command runs inside `Command.invoke`.

0 done, 1 a bug, 130 interrupted, and what each class of `errors.py` says. Wrong arguments (2) are typer's to tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from xraytune.cli import console
from xraytune.errors import INTERRUPTED_EXIT_CODE, MachineError, XraytuneError
from xraytune.files import explained_disk_errors
from xraytune.limits import likely_shortage, shortage


class Command(TyperCommand):
    """A command whose refusals are told without a traceback, and whose bugs are told with one."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own context
        """Run the command.

        Raises:
            typer.Exit: With the exit code of what went wrong.
        """
        try:
            with explained_disk_errors(Path()):
                return super().invoke(ctx)
        except (typer.Exit, typer.BadParameter):  # typer's to tell
            raise
        except XraytuneError as error:
            console.show_refusal(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            console.tell("interrupted: the same command goes on", "strong")
            raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
        except BrokenPipeError:  # the reader of a pipe has seen enough; typer ends quietly
            raise
        except Exception as error:  # noqa: BLE001  the other boundary: the traceback of a bug is shown
            if problem := shortage(error):
                console.show_refusal(MachineError(problem))
            elif problem := likely_shortage():
                console.show_bug(str(problem))
            else:
                console.show_bug()
            raise typer.Exit(MachineError.exit_code if problem else 1) from None
