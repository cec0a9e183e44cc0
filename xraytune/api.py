"""The commands as Python functions, with the same names and the same arguments.

`api.search` is `xraytune search`, and `api.data_inspect` is `xraytune data inspect`. The option
`--weights-dir` is the argument `weights_dir`. Three options have other names here: `overrides` is
`--set`, and in `data_phantom`, `image_size_px` is `--size` and `pairs` is `--masks`.

Functions raise a subclass of `XraytuneError` where a command prints an error. Except for `demo`,
they print nothing; `show_progress()` and `show_search()` show progress as commands do. Paths may be
text or `Path` objects, and one override needs no list. docs/python.md goes through a whole search.
Functions are imported on first use, so importing this module is fast and loads neither torch nor
Ray.

This module and the entry points of extensions (examples/README.md) are the stable API, whose
changes are listed in the changelog. All other modules may change with each release.
"""

from collections.abc import Callable
from functools import wraps
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

from xraytune import cli

COMMANDS = {"demo": "cli.getting_started:demo", **cli.COMMANDS}
"""The module and the name of each command's function."""
PLACES = COMMANDS | {
    "list_studies": "present.studies:list_studies",
    "trials_dataframe": "study.status:trials_dataframe",
    "show_progress": "cli.console:show_progress",
    "show_search": "cli.results:show_search",
    "Callbacks": "search.callbacks:Callbacks",
    "XraytuneError": "base.errors:XraytuneError",
}
"""The module and the name of all public objects."""
__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'xraytune.api' has no attribute {name!r}")
    public_object = cli.load(PLACES[name])
    public_object = _taking_text(public_object) if isfunction(public_object) else public_object
    globals()[name] = public_object
    return public_object


def _taking_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which also takes text for a `Path`, or for a sequence of one text."""
    parameters = signature(function).parameters

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound_arguments = signature(function).bind(*args, **kwargs)
        for name, value in bound_arguments.arguments.items():
            expected = str(parameters[name].annotation)
            if isinstance(value, str) and "Path" in expected:
                bound_arguments.arguments[name] = Path(value)
            elif isinstance(value, str) and "Sequence[str" in expected:
                bound_arguments.arguments[name] = [value]
        return function(*bound_arguments.args, **bound_arguments.kwargs)

    return call


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
