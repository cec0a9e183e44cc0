"""torchvision's models and utilities, without torch's compiler, which takes longest to import.

torchvision needs the compiler for one function of detectors, whose first call imports it.
"""

import sys
from types import ModuleType
from typing import Any

import torch  # noqa: F401  imported before the placeholders are there

__all__ = ["models", "utils"]


def _is_compile_supported(device_type: str) -> Any:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


_missing = {"torch._dynamo", "torch._dynamo.utils"} - sys.modules.keys()
for _name in _missing:
    sys.modules[_name] = ModuleType(_name)
    vars(sys.modules[_name])["is_compile_supported"] = _is_compile_supported
try:
    from torchvision import models, utils
finally:
    for _name in _missing:
        del sys.modules[_name]
