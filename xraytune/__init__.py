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
    xraytune headroom           measure_headroom
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

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import isfunction, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A function may not be called `audit`, `search` or `confirm`: these are a module and packages.
if TYPE_CHECKING:
    from xraytune.audit import audit as run_audit
    from xraytune.base.errors import XraytuneError
    from xraytune.cli.console import progress as show_progress
    from xraytune.cli.getting_started import demo
    from xraytune.cli.search import follow_search as show_search
    from xraytune.confirm.headroom import headroom as measure_headroom
    from xraytune.confirm.run import confirm as confirm_study
    from xraytune.data.inspect import inspect_folder
    from xraytune.data.phantom import draw_phantoms
    from xraytune.model.best import export as export_best
    from xraytune.model.evaluate import evaluate
    from xraytune.model.generator_folder import generator_sample, generator_train
    from xraytune.model.predict import predict
    from xraytune.model.train import train
    from xraytune.present.page import write_report
    from xraytune.present.studies import list_studies
    from xraytune.search.callbacks import Callbacks
    from xraytune.search.doctor import doctor
    from xraytune.search.run import search as run_search
    from xraytune.space.load import load_space
    from xraytune.space.settings import DataSettings
    from xraytune.space.shipped import copy_space, list_spaces
    from xraytune.study.clean import clean_cache
    from xraytune.study.status import status, trials_dataframe

__all__ = [
    "Callbacks",
    "DataSettings",
    "XraytuneError",
    "clean_cache",
    "confirm_study",
    "copy_space",
    "demo",
    "doctor",
    "draw_phantoms",
    "evaluate",
    "export_best",
    "generator_sample",
    "generator_train",
    "inspect_folder",
    "list_spaces",
    "list_studies",
    "load_space",
    "measure_headroom",
    "predict",
    "run_audit",
    "run_search",
    "show_progress",
    "show_search",
    "status",
    "train",
    "trials_dataframe",
    "write_report",
]

_PLACES = {
    "Callbacks": "xraytune.search.callbacks:Callbacks",
    "DataSettings": "xraytune.space.settings:DataSettings",
    "XraytuneError": "xraytune.base.errors:XraytuneError",
    "clean_cache": "xraytune.study.clean:clean_cache",
    "confirm_study": "xraytune.confirm.run:confirm",
    "copy_space": "xraytune.space.shipped:copy_space",
    "demo": "xraytune.cli.getting_started:demo",
    "doctor": "xraytune.search.doctor:doctor",
    "draw_phantoms": "xraytune.data.phantom:draw_phantoms",
    "evaluate": "xraytune.model.evaluate:evaluate",
    "export_best": "xraytune.model.best:export",
    "generator_sample": "xraytune.model.generator_folder:generator_sample",
    "generator_train": "xraytune.model.generator_folder:generator_train",
    "inspect_folder": "xraytune.data.inspect:inspect_folder",
    "list_spaces": "xraytune.space.shipped:list_spaces",
    "list_studies": "xraytune.present.studies:list_studies",
    "load_space": "xraytune.space.load:load_space",
    "measure_headroom": "xraytune.confirm.headroom:headroom",
    "predict": "xraytune.model.predict:predict",
    "run_audit": "xraytune.audit:audit",
    "run_search": "xraytune.search.run:search",
    "show_progress": "xraytune.cli.console:progress",
    "show_search": "xraytune.cli.search:follow_search",
    "status": "xraytune.study.status:status",
    "train": "xraytune.model.train:train",
    "trials_dataframe": "xraytune.study.status:trials_dataframe",
    "write_report": "xraytune.present.page:write_report",
}
"""The module of each public name, and its name there, as in the imports above."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'xraytune' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    public = getattr(import_module(module), attribute)
    public = _taking_text(public) if isfunction(public) else public
    globals()[name] = public
    return public


def _taking_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with text converted to a `Path` in every argument that is one."""
    parameters = signature(function)
    paths = {
        name
        for name, parameter in parameters.parameters.items()
        if "Path" in str(parameter.annotation)
    }

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = parameters.bind(*args, **kwargs)
        bound.arguments |= {
            name: Path(given)
            for name, given in bound.arguments.items()
            if name in paths and isinstance(given, str)
        }
        return function(*bound.args, **bound.kwargs)

    return call


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
