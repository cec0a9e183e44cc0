"""Do synthetic chest X-rays help a pneumonia classifier, and in which mix with real ones?

Every command has a function here, with the same arguments:

    xraytune demo               demo
    xraytune doctor             doctor
    xraytune data inspect       inspect_folder
    xraytune data phantom       draw_phantoms
    xraytune generator train          generator_train
    xraytune generator sample         generator_sample
    xraytune space list         list_spaces
    xraytune space copy         copy_space
    xraytune space check        load_space
    xraytune plan               plan_study
    xraytune curve              measure_curve
    xraytune search             run_search
    xraytune status             status, list_studies, trials_dataframe
    xraytune report             write_report
    xraytune confirm            confirm_study
    xraytune audit              run_audit
    xraytune export             export_best
    xraytune cache clean        clean_cache
    xraytune train              train
    xraytune evaluate           evaluate
    xraytune predict            predict

Functions raise a subclass of `XraytuneError` where a command prints an error, and print nothing,
except `demo`. `show_progress()` and `show_search()` show what a command shows while it runs. Paths
may be text or `Path` objects. docs/python.md goes through a whole search. Functions are imported on
first use, so `import xraytune` is fast and loads neither torch nor Ray.
"""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import isfunction, signature
from pathlib import Path
from typing import Any

# A function may not be called `audit`, `search` or `confirm`: these are a module and packages.
PLACES = {
    "Callbacks": "search.callbacks:Callbacks",
    "DataSettings": "space.settings:DataSettings",
    "XraytuneError": "base.errors:XraytuneError",
    "clean_cache": "study.clean:clean_cache",
    "confirm_study": "confirm.run:confirm",
    "copy_space": "space.shipped:copy_space",
    "demo": "cli.getting_started:demo",
    "doctor": "search.doctor:doctor",
    "draw_phantoms": "data.phantom:draw_phantoms",
    "evaluate": "model.evaluate:evaluate",
    "export_best": "model.export:export",
    "generator_sample": "model.generator_folder:generator_sample",
    "generator_train": "model.generator_folder:generator_train",
    "inspect_folder": "data.inspect:inspect_folder",
    "list_spaces": "space.shipped:list_spaces",
    "list_studies": "present.studies:list_studies",
    "load_space": "space.load:load_space",
    "measure_curve": "confirm.curve:curve",
    "plan_study": "confirm.design:plan",
    "predict": "model.predict:predict",
    "run_audit": "audit:audit",
    "run_search": "search.run:search",
    "show_progress": "cli.console:progress",
    "show_search": "cli.results:follow_search",
    "status": "study.status:status",
    "train": "model.train:train",
    "trials_dataframe": "study.status:trials_dataframe",
    "write_report": "present.page:write_report",
}
"""The module of each public name, and its name there."""
__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module 'xraytune' has no attribute {name!r}")
    module, _, attribute = PLACES[name].partition(":")
    public = getattr(import_module(f"xraytune.{module}"), attribute)
    public = _taking_text(public) if isfunction(public) else public
    globals()[name] = public
    return public


def _taking_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with text converted to a `Path` in every argument that is one."""
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
