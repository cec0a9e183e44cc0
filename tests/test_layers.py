"""The folders are the pipeline: a file imports only from its own folder and those above it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import xraytune

PACKAGE = Path(xraytune.__file__).parent
LAYERS = (  # from top to bottom, as in docs/architecture.svg
    ("base",),
    ("space",),
    ("stats",),
    ("data",),
    ("nets",),
    ("synth",),
    ("tasks",),
    ("trial",),
    ("study",),
    ("search",),
    ("confirm",),
    ("model",),
    ("present",),
    ("audit", "draws", "judge"),
    ("cli",),
    ("api",),
)
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
DOORS: dict[str, str | tuple[str, ...]] = {
    "ray": ("search/ray/"),
    "optuna": "study/",
    "torchvision": "nets/vision.py",
    "wandb": "search/wandb.py",
    "mlflow": "search/mlflow.py",
    "tensorboardX": "search/tensorboard.py",
    "rich": "cli/console.py",
    "typer": "cli/",
    "matplotlib": "base/figures.py",
    "plotly": "present/",
    "jinja2": "base/templates.py",
    "pydicom": "data/dicom.py",
}


@cache
def imports(file: Path) -> list[tuple[int, str]]:
    """Return each absolute module name that a file imports, anywhere in it, with its line."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.extend((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    return found


def files() -> Iterator[tuple[Path, str]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file, file.relative_to(PACKAGE).as_posix()


def test_every_folder_has_a_layer() -> None:
    names = {path.split("/")[0].removesuffix(".py") for _, path in files()} - {
        "__init__",
        "__main__",
    }

    assert names == set(DEPTH)


def test_a_file_imports_only_from_its_own_folder_and_those_above() -> None:
    wrong = []
    for file, path in files():
        own = path.split("/")[0].removesuffix(".py")
        for line, name in imports(file):
            parts = name.split(".")
            if parts[0] != "xraytune" or len(parts) < 2 or own not in DEPTH:
                continue
            if parts[1] != own and parts[1] in DEPTH and DEPTH[parts[1]] >= DEPTH[own]:
                wrong.append(f"{path}:{line} imports {parts[1]}, which is not above it")

    assert wrong == []


def test_each_large_library_is_imported_in_one_place() -> None:
    wrong = [
        f"{path}:{line} imports {name}, which only {DOORS[library]} may"
        for file, path in files()
        for line, name in imports(file)
        if (library := name.split(".")[0]) in DOORS and not path.startswith(DOORS[library])
    ]

    assert wrong == []


def test_there_are_no_import_cycles() -> None:
    """Also between files of one folder; what a function imports in its body may not either."""
    module_of = {
        path: "xraytune." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for _, path in files()
    }
    modules = set(module_of.values())
    graph = {
        module_of[path]: {
            target
            for _, name in imports(file)
            for target in (name, name.rpartition(".")[0])
            if target in modules and target != module_of[path]
        }
        for file, path in files()
    }
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in finished:
            for target in sorted(graph.get(module, ())):
                visit(target, (*way, module))
            finished.add(module)

    for module in sorted(modules - {"xraytune"}):
        visit(module, ())
