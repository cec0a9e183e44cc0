"""Backbones, sources and metrics of other packages: entry points, of which a YAML file can only say the name.

The line `tiny_net = "tiny_net:TinyNet"` under `[project.entry-points."xraytune.backbones"]` in a package's pyproject.toml
makes `backbone: tiny_net` a name like any other, in every process of an environment that has the package. Names that come
with xraytune are never looked up, so whoever extends nothing pays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import core_schema

from xraytune.errors import MachineError, Problem
from xraytune.files import sha256_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


@dataclass(frozen=True, slots=True)
class Extensions:
    """The names of one kind. Annotating a `Literal`, it lets pass what is installed beside what is listed.

    Attributes:
        kind: `backbone` has the entry points of the group `xraytune.backbones`.
        built_in: The names that come with xraytune, which no package can take.
    """

    kind: str
    built_in: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """What other packages bring."""
        return tuple(sorted(_installed(self.kind).keys() - self.built_in))

    def has(self, name: str) -> bool:
        """Whether a name that was let pass is of another package."""
        return name not in self.built_in

    def load(self, name: str) -> Any:
        """The code behind a name.

        Raises:
            MachineError: It cannot be imported.
        """
        point = _installed(self.kind)[name]
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            what = f"{self.kind} {name} cannot be loaded: {error}"
            raise MachineError(Problem(what, point.value, "mend its package, or install it again")) from error

    def identity(self, name: str) -> str:
        """What a fingerprint says: the name, and of another package that one's version and the hash of the file.

        A file that is being worked on changes oftener than its version.
        """
        if not self.has(name):
            return name
        point = _installed(self.kind)[name]
        found = find_spec(point.module)
        assert point.dist is not None, "it was found with its package"
        sha256 = sha256_of(Path(found.origin)) if found and found.origin else ""
        return f"{name} of {point.dist.name} {point.dist.version} {sha256}"

    def __get_pydantic_core_schema__(self, listed: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._read, handler(listed))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        listed = handler(schema)
        return {**listed, "enum": [*listed["enum"], *self.names()]}

    def _read(self, value: Any, read_listed: core_schema.ValidatorFunctionWrapHandler) -> Any:
        try:
            return read_listed(value)
        except ValueError:
            if isinstance(value, str) and value in self.names():
                return value
            raise


@cache
def _installed(kind: str) -> dict[str, EntryPoint]:
    """Of two packages that bring one name, the first on the path counts, as with modules."""
    from importlib.metadata import entry_points  # few need it

    return {point.name: point for point in reversed(entry_points(group=f"xraytune.{kind}s"))}
