"""The Python code of a user: which files it consists of, how it is imported, where it failed."""

import ast
import sys
import traceback
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

from xraytune.base.errors import ConfigError, FileLine

_INSTALLED = ("site-packages", "dist-packages")


def import_root(file: Path) -> Path:
    """Return the folder from which Python imports the module of a file."""
    root = file.resolve().parent
    while (root / "__init__.py").exists():
        root = root.parent
    return root


def code_files(file: Path) -> tuple[Path, ...]:
    """Return every file of the package of a module, and of what it imports from beside it.

    Imports in the bodies of functions count, too. xraytune is left out, and so are other packages
    if the module is installed.
    """
    file = file.resolve()
    root = import_root(file)
    is_installed = any(name in root.parts for name in _INSTALLED)
    names = {file.relative_to(root).parts[0].removesuffix(".py")}
    files: set[Path] = set()
    while names:
        name = names.pop()
        modules = {root / f"{name}.py", *(root / name).rglob("*.py")}
        new_files = {module for module in modules if module.is_file()} - files
        files |= new_files
        if not is_installed:
            names |= imported_packages(new_files) - {"xraytune"}
    return tuple(sorted(files))


def imported_packages(files: Collection[Path]) -> set[str]:
    """Return the top-level packages and modules that Python files import, anywhere in them.

    Raises ConfigError if a file is not Python.
    """
    names = set()
    for file in files:
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError) as error:
            place = FileLine(file, getattr(error, "lineno", None) or 1)
            raise ConfigError(f"this is not valid Python: {error}", place, "correct it") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def imported_releases(files: Collection[Path]) -> dict[str, str]:
    """Return the release of each installed package that Python files import."""
    distributions = _installed_packages(*sys.path)
    packages = {
        package for name in imported_packages(files) for package in distributions.get(name, ())
    }
    return {package: version(package).partition("+")[0] for package in sorted(packages)}


@cache
def _installed_packages(*_path: str) -> Mapping[str, list[str]]:
    """Find out which packages a module comes from, which takes half a second for a path."""
    return packages_distributions()


def import_file(file: Path) -> ModuleType:
    """Import the module of a file, from the folder that it lies in, as it is now.

    Raises:
        ConfigError: Python has another module of this name.
    """
    file = file.resolve()
    root = import_root(file)
    module_name = ".".join(file.relative_to(root).with_suffix("").parts)
    package = module_name.partition(".")[0]
    if package in _imported:
        old_root, old_files = _imported[package]
        with suppress(ValueError):  # the path may have been replaced
            sys.path.remove(str(old_root))
        for name, module in sys.modules.copy().items():
            if Path(getattr(module, "__file__", None) or "") in old_files:
                del sys.modules[name]
    # Behind all other folders, so that a file beside it called `random.py` hides no other module.
    roots = {str(each) for each, _ in _imported.values()}
    indices = (index for index, folder in enumerate(sys.path) if folder in roots)
    sys.path.insert(next(indices, len(sys.path)), str(root))
    _imported[package] = (root, code_files(file))
    invalidate_caches()
    module = import_module(module_name)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != file:
        raise ConfigError(f"Python has another module called {package}", file, "rename the file")
    return module


_imported: dict[str, tuple[Path, tuple[Path, ...]]] = {}
"""The folder on Python's path, and the files, of each package that `import_file` imported."""


def failed_line(error: Exception, files: Collection[Path]) -> FileLine | None:
    """Return the last line of a user's code that an error went through.

    Returns None if the error arose in xraytune, which that code had called.
    """
    frames = [
        FileLine(Path(frame.filename).resolve(), frame.lineno or 0, frame.line or "")
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    package = Path(__file__).parent.parent
    if frames and frames[-1].path.is_relative_to(package):
        return None
    own_files = {file.resolve() for file in files}
    own_frames = [frame for frame in frames if frame.path in own_files]
    return own_frames[-1] if own_frames else None
