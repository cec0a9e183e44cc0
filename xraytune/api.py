"""The commands as Python functions, with the same names and the same arguments.

`api.search` is `xraytune search`, and `api.data_inspect` is `xraytune data inspect`. The option
`--weights-dir` is the argument `weights_dir`. Three options have other names here: `overrides` is
`--set`, and in `data_phantom`, `image_size_px` is `--size` and `pairs` is `--masks`.

Functions raise a subclass of `XraytuneError` where a command prints an error. Except for `demo`,
they print nothing; `show_progress()` and `show_search()` show progress as commands do. Paths may be
text or `Path` objects, and one override needs no list. docs/python.md goes through a whole search.

`api.pyi` is the list of all public names, which editors and type checkers read, too. A name is
imported on first use, so importing this module is fast and loads neither torch nor Ray.

This module and the entry points of extensions (examples/README.md) are the stable API, whose
changes are listed in the changelog. All other modules may change with each release.
"""

import ast
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8"))
PLACES = {
    alias.asname or alias.name: f"{node.module}.{alias.name}"
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
"""The place of each public object, by its name here."""
__all__ = sorted(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'xraytune.api' has no attribute {name!r}")
    module, _, own_name = PLACES[name].rpartition(".")
    public_object = getattr(import_module(module), own_name)
    public_object = _taking_text(public_object) if isfunction(public_object) else public_object
    globals()[name] = public_object
    return public_object


def _taking_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which also takes one text for a sequence of texts."""
    parameters = signature(function).parameters

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound_arguments = signature(function).bind(*args, **kwargs)
        for name, value in bound_arguments.arguments.items():
            if isinstance(value, str) and "Sequence[str" in str(parameters[name].annotation):
                bound_arguments.arguments[name] = [value]
        return function(*bound_arguments.args, **bound_arguments.kwargs)

    return call


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
