"""What all commands do: turn exceptions into exit codes, and show flags in their help."""

import traceback
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from xraytune.base.errors import (
    INTERRUPTED_EXIT_CODE,
    MachineError,
    Problem,
    XraytuneError,
    is_out_of_memory,
)
from xraytune.base.files import explain_disk_errors
from xraytune.cli import console


def _without_flag_types(parameters: list[Any]) -> list[Any]:
    """Hide the type of each flag, which takes no value, from the help."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class Group(TyperGroup):
    """A group of commands."""

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]  # typer's own context
        """Return the parameters, with flags as `--help` shows them."""
        return _without_flag_types(super().get_params(ctx))


class Command(TyperCommand):
    """A command that turns exceptions into exit codes.

    Only an unexpected error prints its traceback.
    """

    def get_params(self, ctx: typer.Context) -> list[Any]:  # type: ignore[override]  # typer's own context
        """Return the parameters, with flags as `--help` shows them."""
        return _without_flag_types(super().get_params(ctx))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own context
        """Run the command; raise `typer.Exit` with the exit code of an error."""
        try:
            with explain_disk_errors(Path()):
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):  # handled by typer
            raise
        except XraytuneError as error:
            console.show_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            console.log("interrupted: run the same command again to resume", "strong")
            raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
        except Exception as error:  # noqa: BLE001  the outermost boundary; the traceback is shown
            if is_out_of_memory(error):
                fix = "run fewer trials at the same time, or set a smaller batch_size or image_size"
                console.show_error(MachineError(Problem("out of memory", fix=fix)))
                raise typer.Exit(MachineError.exit_code) from None
            console.log(traceback.format_exc().rstrip())
            console.log("this is a bug in xraytune: please report it with the lines above", "bad")
            raise typer.Exit(1) from None
