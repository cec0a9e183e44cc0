"""A program with a command line as an extension: it trains a generator, and makes images with it.

    settings: {steps: 1000}
    fit: [python, train.py, --images, "{images}", --out, "{out}", --steps, "{steps}"]
    sample: [python, make.py, --model, "{model}", --class, "{class}", -n, "{n}", --out, "{out}"]

No shell reads the arguments; a placeholder fills a whole one. A line of JSON on the output of
`fit`, {"done": 10, "total": 1000}, is progress. The program runs in the folder of its file.
"""

import ctypes
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field, ValidationError, create_model

from xraytune.base.code import code_files
from xraytune.base.errors import ConfigError, Problem, TrialError, join_names
from xraytune.base.files import new_folder
from xraytune.space.document import read_document
from xraytune.space.strict_model import Several, StrictModel

_GIVEN: Mapping[str, tuple[str, ...]] = {
    "fit": ("images", "out", "seed", "device"),
    "sample": ("model", "out", "class", "n", "seed", "device", "size"),
}
"""The placeholders of a command, besides the settings."""
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_FIX = "write lists of words for `fit` and `sample`, and a mapping for `settings`"
_LINES_SHOWN = 5
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


class _Description(StrictModel):
    fit: Several[str] = Field(min_length=1)
    sample: Several[str] = Field(min_length=1)
    settings: dict[str, bool | int | float | str] = Field(default={})
    longer_by: str = ""
    pretrained_on: Several[str] | str | None = None


class Program:
    """What takes the place of an extension's class; calling it gives itself."""

    def __init__(self, file: Path) -> None:
        """Read the description of a program; raise ConfigError if it is not one."""
        document = read_document(file)
        try:
            description = _Description.model_validate(document.content)
        except ValidationError as error:
            problems = [
                Problem(f"{'.'.join(map(str, loc))}: {message}", document.locate(loc), _FIX)
                for loc, message in ((each["loc"], each["msg"]) for each in error.errors())
            ]
            raise ConfigError(*problems) from error
        self.file = file.resolve()
        defaults: dict[str, Any] = {
            name: (type(default), default) for name, default in description.settings.items()
        }
        placeholders = {*_GIVEN["fit"], *_GIVEN["sample"]}
        if taken := sorted(defaults.keys() & placeholders):
            raise document.error(
                ("settings", taken[0]),
                f"settings: {{{taken[0]}}} is already a placeholder of `fit` or `sample`",
                "rename the setting",
            )
        self.Settings = create_model("Settings", **defaults)
        self.longer_by = description.longer_by
        self.pretrained_on = description.pretrained_on
        self.commands = {"fit": description.fit, "sample": description.sample}
        for name, command in self.commands.items():
            known = {*_GIVEN[name], *defaults}
            used = [match[1] for word in command if (match := _PLACEHOLDER.fullmatch(word))]
            if unknown := [word for word in used if word not in known]:
                raise document.error(
                    (name,),
                    f"{name}: unknown placeholder {{{unknown[0]}}}",
                    f"use {join_names(sorted(known))}, or a setting of `settings`",
                )

    def __call__(self) -> "Program":
        """Return itself, where a class would return an instance."""
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """The description, and the files that the commands name, with what Python imports."""
        files = {self.file}
        for word in (*self.commands["fit"], *self.commands["sample"]):
            named = self.file.parent / word
            if named.is_file():
                files |= {*code_files(named)} if named.suffix == ".py" else {named.resolve()}
        return tuple(sorted(files))

    def fit(
        self,
        images: NDArray[np.uint8],
        targets: NDArray[np.int64],
        *,
        classes: Sequence[str],
        masks: NDArray[np.uint8] | None,
        settings: BaseModel,
        folder: Path,
        seed: int,
        device: str,
        progress: Callable[[int, int], None],
    ) -> None:
        """Run `fit` with a copy of the training images in class folders."""
        if masks is not None or targets.ndim > 1:
            raise TrialError(
                "a program makes images of classes, without masks or findings",
                self.file,
                "write a class instead (docs/your_generator.md)",
            )
        copy = folder / "images"
        if not copy.exists():
            with new_folder(copy) as new:
                for number, (pixels, target) in enumerate(zip(images, targets, strict=True)):
                    file = new / classes[target] / f"{number:06d}.png"
                    file.parent.mkdir(exist_ok=True)
                    Image.fromarray(pixels).save(file)
        model = folder / "model"
        model.mkdir(exist_ok=True)
        places = {"images": copy, "out": model, "seed": seed, "device": device}
        self._run("fit", {**dict(settings), **places}, progress)
        shutil.rmtree(copy)

    def sample(
        self,
        targets: NDArray[np.int64],
        *,
        classes: Sequence[str],
        settings: BaseModel,
        folder: Path,
        seed: int,
        device: str,
        size: int,
    ) -> NDArray[np.uint8]:
        """Run `sample` for the class of a block; return uint8 [n, S, S], at most of `size`."""
        count = len(targets)
        with TemporaryDirectory(prefix="xraytune-") as out:
            given = {
                "model": folder / "model",
                "out": out,
                "class": classes[targets[0]],
                "n": count,
                "seed": seed,
                "device": device,
                "size": size,
            }
            self._run("sample", {**dict(settings), **given}, lambda *_: None)
            files = sorted(Path(out).rglob("*.png"))[:count]
            if len(files) < count:
                raise TrialError(
                    f"sample of {self.file.name} wrote {len(files)} of {count} images (*.png)",
                    self.file,
                    "write as many as {n} says to {out}",
                )
            images = [self._read(file, size) for file in files]
        if len({image.shape for image in images}) > 1:
            raise TrialError(
                f"sample of {self.file.name} wrote images of several sizes",
                self.file,
                "write all images at one size",
            )
        return np.stack(images)

    def _read(self, file: Path, size: int) -> NDArray[np.uint8]:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise TrialError(
                    f"sample of {self.file.name} wrote images of more than 8 bits",
                    self.file,
                    "write grey values from 0 to 255",
                )
            side = min(size, *image.size)
            return np.asarray(image.convert("L").resize((side, side)))

    def _run(
        self, name: str, values: Mapping[str, object], progress: Callable[[int, int], None]
    ) -> None:
        """Run a command to its end; raise TrialError with the end of its stderr if it fails."""
        words = [
            str(values[match[1]]) if (match := _PLACEHOLDER.fullmatch(word)) else word
            for word in self.commands[name]
        ]
        if words[0] == "python":
            words[0] = sys.executable
        with TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    words,
                    cwd=self.file.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    errors="replace",
                    preexec_fn=_die_with_parent,
                )
            except OSError as error:
                raise TrialError(
                    f"{name}: cannot run {words[0]} ({error.strerror})",
                    self.file,
                    "install it, or correct its path",
                ) from error
            with process:
                try:
                    assert process.stdout is not None, "it is a pipe"
                    for line in process.stdout:
                        with suppress(ValueError, LookupError, TypeError):
                            row = json.loads(line)
                            progress(int(row["done"]), int(row["total"]))
                except BaseException:
                    process.kill()
                    raise
            if process.returncode:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()[-_LINES_SHOWN:]
                what = f"{name} ended with exit code {process.returncode}"
                if process.returncode < 0:
                    what = f"{name} was killed by signal {-process.returncode}"
                shown = "\n  ".join([what, *lines])
                raise TrialError(shown, self.file, f"run it by hand: {' '.join(words[:3])} ...")


def _die_with_parent() -> None:
    """Let the system kill this process when its parent dies, as a trial may at any time."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
