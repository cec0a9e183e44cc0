"""The commands as Python functions, with the same names and the same arguments.

`api.search` is `xraytune search`, and `api.data_inspect` is `xraytune data inspect`. The option
`--weights-dir` is the argument `weights_dir`. Three options have other names here: `overrides` is
`--set`, and in `data_phantom`, `image_size_px` is `--size` and `pairs` is `--masks`.

Functions raise a subclass of `XraytuneError` where a command prints an error. Except for `demo`,
they print nothing; `show_progress()` and `show_search()` show progress as commands do. Paths
may be text or `Path` objects. docs/python.md goes through a whole search. Functions are imported on
first use, so importing this module is fast and loads neither torch nor Ray.

This module and the entry points of extensions (examples/README.md) are the stable API, whose
changes are listed in the changelog. All other modules may change with each release.
"""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

COMMANDS = {
    "demo": "cli.getting_started:demo",
    "data_inspect": "data.inspect:inspect_folder",
    "data_phantom": "data.phantom:draw_phantoms",
    "generator_train": "model.generator_folder:generator_train",
    "generator_sample": "model.generator_folder:generator_sample",
    "space_list": "space.shipped:list_spaces",
    "space_copy": "space.shipped:copy_space",
    "space_check": "space.load:load_space",
    "plan": "confirm.outlook:study_outlook",
    "curve": "confirm.curve:curve",
    "search": "search.run:search",
    "status": "study.status:status",
    "report": "present.page:write_report",
    "confirm": "confirm.run:confirm",
    "audit": "audit:audit",
    "export": "model.export:export",
    "cache_clean": "study.clean:clean_cache",
    "train": "model.train:train",
    "evaluate": "model.evaluate:evaluate",
    "predict": "model.predict:predict",
}
"""The module and the name of each command's function."""
PLACES = COMMANDS | {
    "list_studies": "present.studies:list_studies",
    "trials_dataframe": "study.status:trials_dataframe",
    "show_progress": "cli.console:progress",
    "show_search": "cli.results:follow_search",
    "Callbacks": "search.callbacks:Callbacks",
    "XraytuneError": "base.errors:XraytuneError",
}
"""The module and the name of all public objects."""
__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'xraytune.api' has no attribute {name!r}")
    module, _, attribute = PLACES[name].partition(":")
    public = getattr(import_module(f"xraytune.{module}"), attribute)
    public = _taking_text(public) if isfunction(public) else public
    globals()[name] = public
    return public


def _taking_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which also takes text for every argument that is a `Path`."""
    parameters = signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = parameters.bind(*args, **kwargs)
        for name, given in bound.arguments.items():
            if isinstance(given, str) and "Path" in str(parameters.parameters[name].annotation):
                bound.arguments[name] = Path(given)
        return function(*bound.args, **bound.kwargs)

    return call


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
