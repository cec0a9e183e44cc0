"""Code of users: generators, augmentations, backbones and samplers, which a space selects by name.

The file `my_gan.py` of `--extension my_gan.py:MyGan` makes `source: my_gan` valid. A class with
`fit` and `sample` is a generator (docs/your_generator.md), a class with `augment` or a function is
an augmentation (docs/your_augmentation.md), and a class with `forward` is a backbone. The line
`tiny_net = "tiny_net:TinyNet"` under `[project.entry-points."xraytune.backbones"]` in a package's
pyproject.toml does the same wherever the package is installed; samplers come only so.

Settings of an extension become parameters under its name, such as `my_gan.steps`. A space only
names extensions: the command line or an installed package says where their code is. With what a
study records of its extensions, it can be read without their code.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import EntryPoint, EntryPoints, entry_points, version
from pathlib import Path
from types import FunctionType
from typing import Any, TypeAlias, get_type_hints

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from xraytune.base.code import code_files, failed_line, import_file, import_root, imported_releases
from xraytune.base.errors import (
    ConfigError,
    MachineError,
    TrialError,
    XraytuneError,
    counted,
    is_out_of_memory,
    join_names,
)
from xraytune.base.files import sha256_of
from xraytune.base.records import frozen
from xraytune.base.sha256_lists import DECLARED_IMAGES, read_sha256_list
from xraytune.space.domains import Value
from xraytune.space.paths import relative_path
from xraytune.space.program import Program
from xraytune.space.strict_model import StrictModel

ExtensionCode: TypeAlias = Any
"""The class or function of a user."""
_METHODS = {"source": ("fit", "sample"), "augmentation": ("augment",), "backbone": ("forward",)}
"""The methods of a class of each kind; a function is an augmentation."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_HOW_TO_NAME = "write --extension FILE.py:NAME of a class or function, or the YAML of a program"


@frozen
class Extension:
    """What a study records of an extension.

    Attributes:
        place: Its file, from the folder that Python imports it from, and its class:
            `my_gan.py:MyGan`. The file of a program: `roentgen.yaml`.
        folder: Where a program is, from the folder of its study; "" for code, which is copied.
        package: The installed package that it belongs to, with its version; "" for a file.
        settings: The default of each setting.
        longer_by: The setting that makes a training longer, so that it can start from the folder of
            a shorter one; "" if there is none.
        seen: SHA-256 of the images that the generator had seen before `fit`; None if unknown.
        files: SHA-256 of each file of the code, by its path from the folder of `place`.
        releases: The releases of the packages that the code imports.
    """

    name: str
    place: str
    package: str
    settings: dict[str, Value]
    longer_by: str
    seen: tuple[str, ...] | None
    files: dict[str, str]
    releases: dict[str, str]
    folder: str = ""
    kind: str = "source"

    @property
    def identity(self) -> str:
        """Its name, its place, and a hash of all that `changes` compares."""
        content = repr((sorted(self.files.items()), self.seen))
        digest = sha256(content.encode()).hexdigest()
        return f"{self.name} of {self.package or self.place} {digest}"

    def __str__(self) -> str:
        where, _, digest = self.identity.rpartition(" ")
        return f"{where} ({counted(len(self.files), 'file')}, SHA-256 {digest[:12]})"

    def changes(self, other: Extension) -> list[str]:
        """Return the names of files that differ in another one, and `pretrained_on` if it does."""
        names = sorted(self.files.keys() | other.files.keys())
        changed = [name for name in names if self.files.get(name) != other.files.get(name)]
        return changed if self.seen == other.seen else [*changed, "pretrained_on"]


@dataclass(frozen=True, slots=True)
class Kind:
    """The names of one kind, of xraytune and of extensions.

    Attributes:
        name: `backbone` is a parameter, and has the entry points of the group `xraytune.backbones`.
        built_in: The names that come with xraytune; no extension can replace them.
        library: An optional package, to which names such as `timm/resnet18` belong; only the
            package knows whether it has them.
    """

    name: str
    built_in: tuple[str, ...]
    library: str = ""

    def has(self, name: str) -> bool:
        """Return whether a validated name belongs to an extension."""
        return name not in self.built_in and not self.is_of_library(name)

    def is_of_library(self, name: str) -> bool:
        """Return whether a name belongs to a model of the library."""
        return bool(self.library) and name.startswith(f"{self.library}/")

    def check(self, name: str) -> str:
        """Return a name if it is one of this kind; raise a pydantic error otherwise."""
        if not self.has(name):
            return name
        EXTENSIONS.declare_installed([name], self.name)
        declared = [known for known, each in EXTENSIONS.declared.items() if each.kind == self.name]
        if name in declared:
            return name
        expected = ", ".join(map(repr, (*self.built_in, *declared, *_installed(self.name).names)))
        raise PydanticKnownError("literal_error", {"expected": expected})

    def identity(self, name: str) -> str:
        """Return the identity of a name in fingerprints, which changes with an extension's code."""
        if self.is_of_library(name):
            return f"{name} of {self.library} {version(self.library)}"
        return EXTENSIONS.declared[name].identity if self.has(name) else name


@dataclass(frozen=True, slots=True)
class Extensions:
    """The extensions that this process knows.

    Attributes:
        declared: The extensions whose settings are parameters, by name.
        blocks: The models of their settings.
        parameters: Their settings by dotted name.
        code: The classes and functions of those whose code was loaded.
        reserved: Names of xraytune, which no extension can have.
        roots: The folders that the paths of their files are relative to. Without its folder, an
            extension that a study recorded is only known by name.
    """

    declared: dict[str, Extension] = field(default_factory=dict)
    blocks: dict[str, type[StrictModel]] = field(default_factory=dict)
    parameters: dict[str, FieldInfo] = field(default_factory=dict)
    code: dict[str, ExtensionCode] = field(default_factory=dict)
    roots: dict[str, Path] = field(default_factory=dict)
    reserved: set[str] = field(default_factory=set)

    def kind_of(self, block: str) -> str:
        """Return the parameter whose value decides whether a block of parameters has an effect."""
        return self.declared[block].kind if block in self.declared else "source"

    def register(self, extensions: Iterable[str | ExtensionCode]) -> list[str]:
        """Load the code of extensions, and declare them; return their names.

        Each is `FILE.py:NAME`, a class or function that was imported from a file, or the file of a
        program.

        Raises:
            ConfigError: There is no such class, or it is not an extension.
            MachineError: It imports a package that is not installed.
        """
        names = []
        for extension in extensions:
            code = _find_code(extension) if isinstance(extension, str) else extension
            file = _file_of(code)
            names.append(file.stem)
            self._declare_code(_kind_of(code, file), file.stem, code, file)
        return names

    def declare_installed(self, names: Collection[str], *kinds: str) -> None:
        """Declare those of some names, of some kinds or all, that installed packages have."""
        for kind in kinds or _METHODS:
            points = _installed(kind)
            for name in points.names.intersection(names) - {*self.declared, *self.reserved}:
                self._declare_package(kind, points[name])

    def declare_recorded(self, extension: Extension, root: Path | None) -> None:
        """Declare an extension of a study, and the folder of its files if its code may be run.

        If its code was loaded before, nothing is changed.
        """
        if extension.name not in self.code:
            recorded: dict[str, Any] = {
                setting: (Value, default) for setting, default in extension.settings.items()
            }
            self._declare(extension, create_model("Settings", __base__=StrictModel, **recorded))
            if root:
                self.roots[extension.name] = root

    def load(self, name: str) -> ExtensionCode:
        """Return the class of a declared extension; import it first, if its code is not loaded.

        Raises:
            ConfigError: The code was not given, or cannot be imported.
            MachineError: The code is not what the study recorded, or a package is missing.
        """
        if name not in self.code:
            recorded = self.declared[name]
            if recorded.package:
                points = _installed(recorded.kind)
                if name not in points.names:
                    raise MachineError(
                        f"{recorded.kind} {name} needs {recorded.package}, which is not installed",
                        fix="install it, on every machine that runs trials",
                    )
                self._declare_package(recorded.kind, points[name])
            elif name in self.roots:
                code = _find_code(str(self.roots[name] / recorded.place))
                self._declare_code(recorded.kind, name, code, _file_of(code))
            else:
                raise ConfigError(
                    f"the code of the extension {name} was not given, and a study runs no code",
                    "--extension",
                    f"write --extension FOLDER/{recorded.place}",
                )
            if changes := self.declared[name].changes(recorded):
                raise MachineError(
                    f"the code of {name} here is not that of the study: {join_names(changes)}",
                    self.roots[name],
                    "install the same code on every machine that runs trials",
                )
        return self.code[name]

    def build(self, name: str, values: Mapping[str, Value]) -> Any:
        """Return an object of an extension's class, which takes its settings if it has any."""
        code = self.load(name)
        settings = settings_of(name, values)
        return code() if settings is None else code(settings)

    @contextmanager
    def calling(self, name: str, method: str) -> Iterator[None]:
        """Explain the errors of the code of an extension: raise TrialError with its line."""
        extension = self.declared[name]
        try:
            yield
        except Exception as error:
            place = failed_line(error, [self.roots[name] / file for file in extension.files])
            if place is None or is_out_of_memory(error):
                raise
            raise TrialError(
                f"{method} of {extension.place} failed: {type(error).__name__}: {error}",
                place,
                "correct it; error.txt in the trial's folder has the whole traceback",
            ) from error

    def _declare_package(self, kind: str, point: EntryPoint) -> None:
        """Declare an extension of an installed package."""
        assert point.dist is not None, "entry points come from distributions"
        try:
            code = point.load()
        except (ImportError, AttributeError, SyntaxError) as error:
            what = f"{kind} {point.name} cannot be loaded: {error}"
            names = join_names(sorted(_installed(kind).names))
            raise MachineError(
                what, point.value, f"repair or reinstall its package; installed are {names}"
            ) from error
        file = Path(str(sys.modules[point.module].__file__)).resolve()
        if kind in _METHODS and isinstance(code, type):
            _kind_of(code, file)
        package = f"{point.dist.name} {point.dist.version}"
        self._declare_code(kind, point.name, code, file, package)

    def _declare_code(
        self, kind: str, name: str, code: ExtensionCode, file: Path, package: str = ""
    ) -> None:
        is_other = name in self.declared and self.declared[name].kind != kind
        if name in self.reserved or is_other or not _NAME.fullmatch(name):
            what = f"{name!r} cannot be the name of an extension" + " twice" * is_other
            raise ConfigError(
                what,
                file,
                "choose another name of the file, of lower-case letters, digits and underscores",
            )
        is_program = isinstance(code, Program)
        block = _settings_block(code, file)
        longer_by = getattr(code, "longer_by", "")
        if longer_by and longer_by not in block.model_fields:
            raise ConfigError(
                f"longer_by: {longer_by!r} is no setting here", file, "name one of the settings"
            )
        root = file.parent if is_program else import_root(file)
        files = code.files if is_program else code_files(file)
        list_of_seen = _list_of_seen(code, file)
        if list_of_seen and not is_program:
            if list_of_seen.is_relative_to(root):
                files = (*files, list_of_seen)  # it is copied with the code, which reads it again
            elif not (package or Path(code.pretrained_on).is_absolute()):
                raise ConfigError(
                    f"pretrained_on: {list_of_seen} is not beside the code, so trials would "
                    "lack it",
                    file,
                    "move it there, or give its absolute path",
                )
        extension = Extension(
            name=name,
            place=file.name if is_program else f"{file.relative_to(root)}:{_name_of(code)}",
            package=package,
            settings={setting: info.default for setting, info in block.model_fields.items()},
            longer_by=longer_by,
            seen=_seen_images(code, file),
            files={relative_path(path, root): sha256_of(path) for path in files},
            releases=imported_releases([path for path in files if path.suffix == ".py"]),
            kind=kind,
        )
        self._declare(extension, block)
        self.code[name] = code
        self.roots[name] = root

    def _declare(self, extension: Extension, block: type[StrictModel]) -> None:
        name = extension.name
        old_names = [key for key in self.parameters if key.startswith(f"{name}.")]
        for key in old_names:
            del self.parameters[key]
        for setting, info in block.model_fields.items():
            self.parameters[f"{name}.{setting}"] = info
        self.declared[name] = extension
        self.blocks[name] = block


def settings_of(name: str, values: Mapping[str, Value]) -> Any:
    """Return the settings of an extension as its code takes them; None if it has none."""
    settings = getattr(EXTENSIONS.load(name), "Settings", None)
    return settings(**values) if settings else None


def _kind_of(code: ExtensionCode, file: Path) -> str:
    if isinstance(code, FunctionType):
        return "augmentation"
    for kind, methods in _METHODS.items():
        if all(hasattr(code, method) for method in methods):
            return kind
    needed = ", or ".join(" and ".join(methods) for methods in _METHODS.values())
    raise ConfigError(
        f"{_name_of(code)} lacks the methods of an extension: {needed}",
        file,
        "write it as docs/your_generator.md shows",
    )


def _name_of(code: ExtensionCode) -> str:
    return str(getattr(code, "__qualname__", code))


def _file_of(code: ExtensionCode) -> Path:
    if isinstance(code, Program):
        return code.file
    try:
        return Path(inspect.getfile(code)).resolve()
    except (TypeError, OSError) as error:
        raise ConfigError(
            f"{_name_of(code)} is not in a file, so no other process can import it",
            fix="write it to a file (notebook: %%writefile my_gan.py), and import it from there",
        ) from error


def _find_code(place: str) -> ExtensionCode:
    """Return the class of `FILE.py:CLASS`, or the program of a file."""
    if Path(place).suffix in (".yaml", ".yml"):
        return Program(Path(place))
    file_name, _, class_name = place.rpartition(":")
    if not file_name:
        raise ConfigError("no class or function is named", place, _HOW_TO_NAME)
    file = Path(file_name)
    if not file.is_file():
        raise ConfigError("there is no such file", file, _HOW_TO_NAME)
    try:
        module = import_file(file)
    except XraytuneError:
        raise
    except Exception as error:  # whatever the code of a user raises
        where = failed_line(error, code_files(file)) or file
        what = f"this cannot be imported: {type(error).__name__}: {error}"
        if isinstance(error, ImportError):
            raise MachineError(
                what, where, "install what it imports on every machine that runs trials"
            ) from error
        raise ConfigError(what, where, "correct it") from error
    code = getattr(module, class_name, None)
    if not isinstance(code, type | FunctionType):
        raise ConfigError(f"there is no class or function {class_name!r} here", file, _HOW_TO_NAME)
    return code


def _settings_block(code: ExtensionCode, file: Path) -> type[StrictModel]:
    """Return a strict model with the fields of the `Settings` of an extension, if it has any.

    Raises ConfigError if a field has no default, or one that is neither a number nor text.
    """
    settings: Any = getattr(code, "Settings", None)
    definitions: dict[str, Any] = {}
    if settings is None:
        return create_model("Settings", __base__=StrictModel)
    if issubclass(settings, BaseModel):
        for name, info in settings.model_fields.items():
            definitions[name] = (info.annotation, info)
    elif is_dataclass(settings):
        hints = get_type_hints(settings, include_extras=True)
        definitions = {item.name: (hints[item.name], item.default) for item in fields(settings)}
    else:
        raise ConfigError(
            f"Settings of {_name_of(code)} is neither a dataclass nor a pydantic model",
            file,
            "decorate it with @dataclass",
        )
    block = create_model("Settings", __base__=StrictModel, **definitions)
    for name, info in block.model_fields.items():
        if info.default is MISSING or not isinstance(info.default, Value):
            raise ConfigError(
                f"{name}: a setting of {_name_of(code)} without a number or text as default",
                file,
                f"write {name}: int = 1000",
            )
    return block


def _seen_images(code: ExtensionCode, file: Path) -> tuple[str, ...] | None:
    """Return the SHA-256 of the images that a generator declares to have seen; None if unknown.

    Raises ConfigError or DataError if the declaration cannot be read.
    """
    list_of_seen = _list_of_seen(code, file)
    if list_of_seen:
        return tuple(sorted(read_sha256_list(list_of_seen)))
    try:
        seen = DECLARED_IMAGES.validate_python(getattr(code, "pretrained_on", None))
    except ValidationError as error:
        raise ConfigError(
            "pretrained_on has no SHA-256, or not only",
            file,
            "list the SHA-256 of each image, or write None if they are not known",
        ) from error
    return None if seen is None else tuple(sorted(seen))


def _list_of_seen(code: ExtensionCode, file: Path) -> Path | None:
    """Return the file that `pretrained_on` names; None if it names none."""
    declared = getattr(code, "pretrained_on", None)
    return (file.parent / declared).resolve() if isinstance(declared, str | Path) else None


@cache
def _installed(kind: str) -> EntryPoints:
    """Return the entry points of a kind; of equal names, the first on the path is used."""
    return entry_points(group=f"xraytune.{kind}s")


EXTENSIONS = Extensions()
SOURCES = Kind("source", ("none", "duplicate", "statistics", "folder", "generator", "gan"))
"""The sources of extra images, the cheapest first; extensions cost more."""
AUGMENTATIONS = Kind("augmentation", ("none", "flip", "affine", "trivial"))
