"""What all commands do.

Call the function of `xraytune` of the same name, show its progress, print its result, explain its
errors.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import typer
from typer.core import TyperCommand

import xraytune
from xraytune.base.errors import (
    INTERRUPTED_EXIT_CODE,
    MachineError,
    Problem,
    XraytuneError,
    is_out_of_memory,
)
from xraytune.base.files import explain_disk_errors
from xraytune.cli import console

Body: TypeAlias = Callable[..., None]


def calls(name: str) -> Callable[[Body], Body]:
    """Make a function without a body a command that passes its options on to `xraytune.NAME`.

    Options that are not given have the defaults of that function. `cli/results.py` has what shows
    the work while it runs, and the function of the same name that prints the result.
    """

    def decorate(body: Body) -> Body:
        @wraps(body)
        def run(**options: Any) -> None:
            function = getattr(xraytune, name)
            accepted = signature(function).parameters
            results = import_module("xraytune.cli.results")
            screen = results.follow_work if "on_progress" in accepted else nullcontext
            with results.SCREENS.get(name, screen)(options) as callbacks:
                given = {
                    option: value
                    for option, value in {**options, **callbacks}.items()
                    if value is not None and option in accepted
                }
                result = function(**given)
            if options["as_json"]:
                console.show_json(result)
            else:
                getattr(results, name)(result, options)

        return run

    return decorate


class Command(TyperCommand):
    """A command that turns exceptions into exit codes.

    Only an unexpected error prints its traceback.
    """

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
