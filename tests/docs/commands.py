"""The commands on the pages, which of them are run, and how these are shrunk.

A command is run with the options of `SHRUNK` in addition, which replace equal ones on the page and
make its networks, images and budgets small. If that makes commands with a space file equal, only
the first is run. A block without new commands is not run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from docs.hooks import Block, blocks, shell_commands
from xraytune.space.load import load_space

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [
    (page.relative_to(ROOT).as_posix(), block)
    for page in PAGES
    for block in blocks(page.read_text("utf-8"))
]

RUN_AS_A_WHOLE = {
    "docs/tutorial.md": "test_the_tutorial_shows_what_its_commands_print",
}
"""Pages whose commands build on each other, and what runs them in their order."""
ONLY_PARSED = {
    r"(docker|ray job) ": "needs an image or a cluster; the same commands are run without",
    r"xraytune search .*--address": "needs a cluster: tests/deploy/test_with_ray.py",
    r"xraytune demo": "takes minutes: test_the_quick_demo_runs runs demo --quick",
    r"xraytune confirm .*(gan-segmentation|jsrt)": "long GAN trainings: tests/confirm/test_confirm_segmentation.py",
    r"xraytune (search|confirm) .*(findings|b-100)": "needs hundreds of images or given generators: tests/confirm/",
    r"xraytune search .*folder.path=generated": "needs a pipeline: tests/examples/test_folder_from_pipeline.py",
    r"xraytune evaluate .*--calibrate-on": "needs two folders of other patients: tests/model/test_evaluate.py",
    r"xraytune headroom": "needs hundreds of patients: tests/confirm/test_headroom.py",
    r"xraytune (search .*--set name=own|(export|train) .*own)": "needs the examples: tests/examples/test_examples.py",
    r"xraytune evaluate model --data chest_xray/test$": "needs the model of the examples: tests/examples/test_examples.py",
}
"""Commands that are not run, and why."""
RUNNERS = {"docker", "ray", "time"}
"""Programs that run the command after them."""

TINY = (
    *("backbone=small_cnn", "weights=none", "trainable=all", "batch_size=8", "data.image_size=32"),
    *("data.train_patients=12", "data.split.val_a=0.2", "data.split.val_b=0.2"),
    *("resources.gpus_per_trial=0", "resources.cpus_per_trial=1"),
    *("budget.trials=4", "budget.max_epochs=2", "budget.steps_per_epoch=2", "scheduler.grace=1"),
    *("gan.image_size=32", "gan.width=4", "gan.batch_size=4", "gan.steps=2"),
    "quality.allow_memorised=true",
    *("confirm.finalists=1", "confirm.replicates=2"),
    "confirm.controls={matched: [duplicate], tuned: [real_only]}",
)
TINY_PAIRS = (
    *(one for one in TINY if not one.startswith(("backbone", "gan."))),
    *(
        "backbone=resnet18",
        "gan.image_size=32",
        "gan.width=8",
        "gan.batch_size=8",
        "gan.lr_g=2e-3",
        "gan.steps=200",
    ),
)
SHRUNK = {
    r"(search|train|generator train) (?!.*(gan.segmentation|lung_segmenter|jsrt_|best.yaml|exact.yaml))": TINY,
    r"(search|train|generator train) .*(gan.segmentation|lung_segmenter|jsrt_)": TINY_PAIRS,
    r"train .*lung_segmenter": (
        "budget.steps_per_epoch=20",
        "data.train_patients=null",
    ),  # enough for plausible masks
    r"search .*CXR8": ("data.train_patients=null",),
    r"audit": tuple(one for one in TINY if not one.startswith("budget.trials")),
    r"generator sample": ("-n 20",),
    r"data phantom": ("--patients 40", "--size 32"),
}
"""Overrides and options that are added to the commands of xraytune that begin so."""
SEARCH_ONLY = ("budget.trials", "scheduler", "confirm")
UNUSED = {
    "train": (*SEARCH_ONLY, "resources.cpus_per_trial"),
    "generator": (*SEARCH_ONLY, "budget"),
}
"""Of these, what a command refuses, because it does not use it."""


def of_xraytune(words: list[str]) -> list[str] | None:
    """The words after `xraytune`, if that is what the command runs."""
    if words[0] == "xraytune":
        return words[1:]
    if (
        words[0] in RUNNERS
        and "xraytune" in words
        and words[1] != "build"
        and "--entrypoint" not in words
    ):
        return words[words.index("xraytune") + 1 :]
    return None


def is_run(page: str, words: list[str]) -> bool:
    """Whether a command runs xraytune, as more than a part of its page."""
    line = " ".join(words).removeprefix("time ")
    return (
        of_xraytune(words) is not None
        and page not in RUN_AS_A_WHOLE
        and not any(re.match(one, line) for one in ONLY_PARSED)
    )


def used_by(
    file: str | Path,
    overrides: Iterable[str],
    given: Sequence[str] = (),
    *,
    is_trained: bool = False,
) -> list[str]:
    """Return the overrides that have an effect on a space with others that are given, or on its first point."""
    path = ROOT / file
    space = load_space(path if path.exists() else Path(file), given, data=Path("xrays"))
    active = space.first_point().keys() if is_trained else {spec.name for spec in space.specs}
    return [
        one for one in overrides if not one.startswith("gan.") or one.partition("=")[0] in active
    ]


def shrunk(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a command with those of `SHRUNK`, which replace equal ones, and without the folder of weights."""
    line = " ".join(arguments)
    added = [one for start, more in SHRUNK.items() if re.match(start, line) for one in more]
    added = [one for one in added if not one.startswith(UNUSED.get(arguments[0], ()))]
    if added and re.match("search|train|generator train|audit", line):
        pairs = [*itertools.pairwise(arguments)]
        files = [
            word.replace("SPACE.yaml", "gan_ratio_cpu")
            for before, word in pairs
            if before in ("--space", "--config")
        ]
        given = [word for before, word in pairs if before == "--set"]
        is_trained = bool(files) and arguments[0] == "train"
        added = used_by(
            files[0] if files else "audit", added, given, is_trained=is_trained
        )  # a trial may have no GAN
    words = [
        *arguments,
        *(word for one in added for word in (one.split() if one[0] == "-" else ("--set", one))),
    ]
    options: dict[str, tuple[str, ...]] = {}
    rest = iter(words)
    for number, word in enumerate(rest):
        if word in ("--set", "-n", "--patients", "--size", "--weights-dir"):
            value = next(rest)
            options[f"{word} {value.partition('=')[0]}" if word == "--set" else word] = (
                word,
                value,
            )
        else:
            options[f"{number}"] = (word,)
    options.pop("--weights-dir", None)
    return tuple(word for option in options.values() for word in option)


def commands_to_run() -> Iterator[tuple[str, Block, list[tuple[str, ...]]]]:
    """Yield the blocks with commands to run, the first two of which are those of README; each with its commands."""
    seen, run = set[frozenset[str]](), set[tuple[str, ...]]()
    for page, block in BLOCKS:
        found: list[tuple[str, ...]] = []
        for words in shell_commands(block.text) if block.language == "bash" else ():
            arguments = of_xraytune(words)
            if arguments and is_run(page, words):
                command = shrunk(arguments)
                content = frozenset(command)
                if content not in seen:
                    found.append(command)
                if any(re.match("search_spaces/|benchmarks/|inspect$", word) for word in command):
                    seen.add(content)
        if not run.issuperset(found):
            run.update(found)
            yield page, block, found
