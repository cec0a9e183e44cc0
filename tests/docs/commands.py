"""The code blocks of the pages, and overrides that make a space tiny."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command

from docs.hooks import blocks
from xraytune.cli.main import build_app
from xraytune.space.load import load_space

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), block)
    for page in PAGES
    for block in blocks(page.read_text("utf-8"))
]


RUNNERS = {"docker", "ray", "time"}
"""Programs that run the command after them."""

# The features of a GAN would be downloaded, and what is not frozen sends no classifier.
TINY = (
    *"backbone=small_cnn weights=none trainable=all batch_size=8 data.image_size=32".split(),
    *"data.train_patients=12 data.split.val_a=0.2 data.split.val_b=0.2".split(),
    *"resources.gpus_per_trial=0 resources.cpus_per_trial=1 quality.allow_memorised=true".split(),
    *"budget.trials=4 budget.max_epochs=2 budget.steps_per_epoch=2 scheduler.grace=1".split(),
    *"gan.image_size=32 gan.width=4 gan.batch_size=4 gan.steps=2 gan.features=null".split(),
    *"labels=class confirm.finalists=1 confirm.replicates=2".split(),
    "confirm.controls={matched: [duplicate], tuned: [real_only]}",
)
TINY_PAIRS = (
    *(line for line in TINY if not line.startswith(("backbone", "gan."))),
    *"backbone=resnet18 gan.image_size=32 gan.width=8 gan.batch_size=8".split(),
    *"gan.lr_g=2e-3 gan.steps=200".split(),
)


def python_of(page: str, words: str = "") -> str:
    """Return the Python code of a page, of all blocks with these words."""
    of_page = [block for name, block in BLOCKS if name == page and block.language == "python"]
    return "\n".join(block.text for block in of_page if words in block.text)


def run_python_of(page: str, words: str = "") -> dict[str, Any]:
    """Run the Python code of a page, of all blocks with these words; return its variables."""
    names: dict[str, Any] = {}
    exec(compile(python_of(page, words), page, "exec"), names)
    return names


def of_xraytune(words: list[str]) -> list[str] | None:
    """Return the words after `xraytune`, if that is what the command runs."""
    if words[0] == "xraytune":
        return words[1:]
    is_other = words[0] not in RUNNERS or words[1] == "build" or "--entrypoint" in words
    if is_other or "xraytune" not in words:
        return None
    return words[words.index("xraytune") + 1 :]


def parse(words: Sequence[str]) -> Any:
    """Parse a command of xraytune and return its context; `params` has its options' values."""
    current = get_command(build_app())
    name = "xraytune"
    rest = list(words)
    while hasattr(current, "commands"):
        assert rest, f"{name}: a command is missing"
        name = rest.pop(0)
        assert name in current.commands, f"no such command: {name}"
        current = current.commands[name]
    return current.make_context(name, rest)


def used_by(file: str | Path, overrides: Iterable[str]) -> list[str]:
    """Return the overrides that have an effect on a space."""
    active = {spec.name for spec in load_space(Path(file), data=Path("xrays")).specs}
    return [
        line
        for line in overrides
        if not line.startswith(("gan.", "labels")) or line.partition("=")[0] in active
    ]
