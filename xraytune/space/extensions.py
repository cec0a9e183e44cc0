"""Backbones and sources of other packages, found through entry points and selected by name in YAML.

The line `tiny_net = "tiny_net:TinyNet"` under `[project.entry-points."xraytune.backbones"]` in a
package's pyproject.toml makes `backbone: tiny_net` valid wherever the package is installed.
Built-in names never look up entry points.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoints, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic_core import PydanticKnownError

from xraytune.base.code import code_files
from xraytune.base.errors import MachineError
from xraytune.base.files import sha256_of


@dataclass(frozen=True, slots=True)
class Extensions:
    """The names of one kind, of xraytune and of installed extensions.

    Attributes:
        kind: `backbone` has the entry points of the group `xraytune.backbones`.
        built_in: The names that come with xraytune; no package can replace them.
        library: An optional package, to which names such as `timm/resnet18` belong; only the
            package knows whether it has them.
    """

    kind: str
    built_in: tuple[str, ...]
    library: str = ""

    def names(self) -> tuple[str, ...]:
        """Return the names that other packages register."""
        return tuple(sorted(_installed(self.kind).names - {*self.built_in}))

    def has(self, name: str) -> bool:
        """Return whether a validated name belongs to an extension."""
        return name not in self.built_in and not self.is_of_library(name)

    def is_of_library(self, name: str) -> bool:
        """Return whether a name belongs to a model of the library."""
        return bool(self.library) and name.startswith(f"{self.library}/")

    def load(self, name: str) -> Any:
        """Import the object behind a name. Raises MachineError if it cannot be imported."""
        point = _installed(self.kind)[name]
        try:
            return point.load()
        except (ImportError, AttributeError, SyntaxError) as error:
            what = f"{self.kind} {name} cannot be loaded: {error}"
            fix = f"repair or reinstall its package; installed are {', '.join(self.names())}"
            raise MachineError(what, point.value, fix) from error

    def identity(self, name: str) -> str:
        """Return the identity of a name in fingerprints.

        Names of other packages than xraytune and torchvision are followed by the version of the
        package. The identity of an extension also has a hash of its code, which may change more
        often than the version.
        """
        if self.is_of_library(name):
            return f"{name} of {self.library} {version(self.library)}"
        if not self.has(name):
            return name
        module = find_spec(_installed(self.kind)[name].module)
        files = code_files(Path(module.origin)) if module and module.origin else ()
        code = hashlib.sha256("".join(map(sha256_of, files)).encode())
        return f"{name} of {self.package(name)} {code.hexdigest()}"

    def package(self, name: str) -> str:
        """Return the installed package of an extension, with its version."""
        point = _installed(self.kind)[name]
        assert point.dist is not None, "entry points come from distributions"
        return f"{point.dist.name} {point.dist.version}"

    def check(self, name: str) -> str:
        """Return a name if it is one of this kind; raise a pydantic error otherwise."""
        if not self.has(name) or name in self.names():
            return name
        expected = ", ".join(map(repr, (*self.built_in, *self.names())))
        raise PydanticKnownError("literal_error", {"expected": expected})


@cache
def _installed(kind: str) -> EntryPoints:
    """Return the entry points of a kind; of equal names, the first on the path is used."""
    return entry_points(group=f"xraytune.{kind}s")
