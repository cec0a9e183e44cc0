"""Commands.

Each command parses its options, calls its function in `COMMANDS`, and prints the result.
"""

from importlib import import_module
from typing import Any

COMMANDS = {
    "data_inspect": "data.inspect:inspect_folder",
    "data_phantom": "data.phantom:paint_phantoms",
    "generator_train": "model.generator_folder:generator_train",
    "generator_sample": "model.generator_folder:generator_sample",
    "space_list": "space.shipped:list_spaces",
    "space_copy": "space.shipped:copy_space",
    "space_check": "space.load:load_space",
    "extension_check": "model.extension_check:extension_check",
    "plan": "confirm.outlook:study_outlook",
    "curve": "confirm.curve:curve",
    "search": "search.run:search",
    "status": "study.status:status",
    "report": "present.page:write_report",
    "confirm": "confirm.run:confirm",
    "audit": "audit:audit",
    "draws": "draws:draws",
    "judge": "judge:judge",
    "export": "model.export:export",
    "cache_clean": "study.clean:clean_cache",
    "train": "model.train:train",
    "evaluate": "model.evaluate:evaluate",
    "predict": "model.predict:predict",
}
"""The module and the name of each command's function. It is imported when it is called, so that
`--help` loads neither torch nor Ray."""


def load(place: str) -> Any:
    """Import the object of a place, `MODULE:NAME`, in this package."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"xraytune.{module}"), name)
