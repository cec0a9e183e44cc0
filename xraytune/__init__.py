"""Do synthetic chest X-rays help a pneumonia classifier, and in which mix with real ones?

Every command has a function here with the same arguments. It is imported on first use, so `import xraytune` is fast and
loads neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xraytune.cli.getting_started import demo
    from xraytune.config.load import load_space
    from xraytune.confirm.run import confirm as confirm_study
    from xraytune.data.inspect import inspect_folder
    from xraytune.data.phantom import draw_phantoms
    from xraytune.data.transform import transform_folder
    from xraytune.errors import XraytuneError
    from xraytune.export.best import export as export_best
    from xraytune.export.doctor import doctor
    from xraytune.export.evaluate import evaluate
    from xraytune.export.predict import predict
    from xraytune.export.replay import replay
    from xraytune.export.train import train
    from xraytune.pipeline.gan_folder import gan_sample, gan_train
    from xraytune.pipeline.model import model_summary
    from xraytune.search.run import search as run_search
    from xraytune.search.status import status

__all__ = [
    "XraytuneError",
    "confirm_study",
    "demo",
    "doctor",
    "draw_phantoms",
    "evaluate",
    "export_best",
    "gan_sample",
    "gan_train",
    "inspect_folder",
    "load_space",
    "model_summary",
    "predict",
    "replay",
    "run_search",
    "status",
    "train",
    "transform_folder",
]

# `search`, `confirm` and `export` are packages, so their functions have longer names here.
_LOCATIONS = {
    "XraytuneError": "errors:XraytuneError",
    "confirm_study": "confirm.run:confirm",
    "demo": "cli.getting_started:demo",
    "doctor": "export.doctor:doctor",
    "draw_phantoms": "data.phantom:draw_phantoms",
    "evaluate": "export.evaluate:evaluate",
    "export_best": "export.best:export",
    "gan_sample": "pipeline.gan_folder:gan_sample",
    "gan_train": "pipeline.gan_folder:gan_train",
    "inspect_folder": "data.inspect:inspect_folder",
    "load_space": "config.load:load_space",
    "model_summary": "pipeline.model:model_summary",
    "predict": "export.predict:predict",
    "replay": "export.replay:replay",
    "run_search": "search.run:search",
    "status": "search.status:status",
    "train": "export.train:train",
    "transform_folder": "data.transform:transform_folder",
}


def __getattr__(name: str) -> Any:
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'xraytune' has no attribute {name!r}")
    module, _, attribute = _LOCATIONS[name].partition(":")
    return getattr(import_module(f"xraytune.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
