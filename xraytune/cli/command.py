"""What all commands do.

Call the Python function of their name, show its progress, print its result, explain its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import typer
from typer.core import TyperCommand

from xraytune.base.errors import (
    INTERRUPTED_EXIT_CODE,
    MachineError,
    Problem,
    XraytuneError,
    is_out_of_memory,
)
from xraytune.base.files import explain_disk_errors
from xraytune.cli import console

Options: TypeAlias = Mapping[str, Any]
Body: TypeAlias = Callable[..., None]


@contextmanager
def _show_progress(_: Options) -> Iterator[Options]:
    with console.progress() as on_progress:
        yield {"on_progress": on_progress, "note": console.event}


def calls(
    name: str,
    show: Callable[[Any], None],
    *,
    propose: Callable[[Any, Options], None] | None = None,
    screen: Callable[[Options], AbstractContextManager[Options]] = _show_progress,
) -> Callable[[Body], Body]:
    """Make a function without a body a command that passes its options on to `xraytune.NAME`.

    Args:
        name: The function. Options that are not given have its defaults.
        show: Prints the result, unless `--json` is given.
        propose: Prints the next command after that.
        screen: Shows the work while it runs; gives the callbacks, of which the function gets those
            that it has.
    """

    def decorate(body: Body) -> Body:
        @wraps(body)
        def run(*args: Any, **kwargs: Any) -> None:
            options = signature(body).bind(*args, **kwargs).arguments
            function = getattr(import_module("xraytune"), name)
            known = signature(function).parameters.keys()
            is_long = not known.isdisjoint(("on_progress", "callbacks"))
            with screen(options) if is_long else nullcontext({}) as callbacks:
                given = {
                    option: value
                    for option, value in {**options, **callbacks}.items()
                    if value is not None and option in known
                }
                result = function(**given)
            as_json = options.get("as_json", False)
            console.show_result(result, show, as_json=as_json)
            if propose and not as_json:
                propose(result, options)

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
            console.show_traceback(
                "this is a bug in xraytune: please report it with the lines above"
            )
            raise typer.Exit(1) from None
