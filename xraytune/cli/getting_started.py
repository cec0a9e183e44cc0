"""The first commands to try: `demo` and `doctor`.

`demo` runs the whole pipeline on phantom X-rays, `doctor` checks this machine.
"""

from collections.abc import Callable
from pathlib import Path
from shlex import quote, split
from typing import Annotated

import typer
from typer import Argument, Exit, Option
from typer.main import get_command

import xraytune
from xraytune.base.errors import MachineError
from xraytune.base.tables import Cell, Row, Table, Tone
from xraytune.cli import confirm, console, data, generator, model, options, search

_WHOLE = (500, 1200, 1500, "")
_QUICK = (250, 850, 500, "--set budget.trials=4 --set confirm.replicates=4")
"""Patients of both hospitals, steps of the GAN, and the budget."""
_FUNCTIONS: dict[str, Callable[..., None]] = {
    "data phantom": data.phantom,
    "generator train": generator.train,
    "search": search.search,
    "confirm": confirm.confirm,
    "train": model.train,
    "evaluate": model.evaluate,
}
_TONES: dict[str, Tone] = {"ok": "good", "warning": "busy", "missing": "bad"}


def demo(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Folder for all files.")] = Path(
        "demo"
    ),
    quick: Annotated[
        bool,
        options.flag("--quick", "Run a smaller demo in FOLDER/quick: about a minute."),
    ] = False,
) -> None:
    """Run the whole pipeline on phantom X-rays in minutes, from the images to a verdict.

    Run again to resume.
    """
    here = folder / "quick" if quick else folder
    study = here / "studies" / "other-hospital-demo"
    at = quote(str(here))
    space = f"--space commands/other_hospital_demo --cache {at}/cache"
    patients_a, patients_b, gan_steps, budget = _QUICK if quick else _WHOLE
    steps = (
        (
            "Draw chest X-rays of the large hospital A.",
            "data phantom",
            f"{at}/hospital_a --patients {patients_a} --seed 2 --size 64 --difficulty 0",
        ),
        (
            "Draw those of hospital B. Its test/ folder stays sealed.",
            "data phantom",
            f"{at}/hospital_b --patients {patients_b} --seed 1 --size 64 --difficulty 0",
        ),
        (
            "Hospital A trains a GAN, and gives it away.",
            "generator train",
            f"-o {at}/gan_of_a {space} --data {at}/hospital_a --set data.train_patients=null "
            f"--set gan.steps={gan_steps}",
        ),
        (
            "Hospital B has 40 patients. It searches: no extra images, repeated ones, "
            "a GAN of its own, or the GAN of A?",
            "search",
            f"{space} --data {at}/hospital_b --studies {at}/studies "
            f"--set generator.path={at}/gan_of_a {budget}",
        ),
        (
            "Confirm the best mix, on patients that the search never used.",
            "confirm",
            f"{at}/studies/other-hospital-demo --yes",
        ),
        (
            "Train the final model with the mix that helped, on all patients.",
            "train",
            f"-o {at}/model {at}/studies/other-hospital-demo",
        ),
        (
            "Evaluate it on the test folder.",
            "evaluate",
            f"{at}/model --data {at}/hospital_b/test",
        ),
    )

    console.write(
        "From X-rays to an answer, on phantom images. You can run each of these commands yourself.",
        "strong",
    )
    for number, (why, name, line) in enumerate(steps, start=1):
        console.write(f"\n{number}. {why}", "strong")
        console.write_command(f"xraytune {name} {line}")
        words = split(line)
        product = Path(words[1] if words[0] == "-o" else words[0])
        if product.exists() and name in ("data phantom", "generator train", "train"):
            console.write(f"{product} already exists and is kept")
        else:
            _run(name, words)

    console.write("\nThese are phantoms. What holds for real X-rays, only real X-rays can tell.")
    for command in ("data inspect YOUR_FOLDER", "search --data YOUR_FOLDER"):
        console.write_command(f"xraytune {command}", "next: ")
    console.write(f"report: {xraytune.write_report(study)}")


def _run(name: str, arguments: list[str]) -> None:
    """Run a command in this process; its errors are raised."""
    app = typer.Typer()
    app.command()(_FUNCTIONS[name])
    command = get_command(app)
    with command.make_context(name, arguments) as context:
        command.invoke(context)


def doctor(
    space: Annotated[
        Path | None,
        Option(metavar="FILE", help="Search space file; checks the weights that its trials need."),
    ] = None,
    weights_dir: options.WeightsDir = None,
    folder: Annotated[
        Path, Option(metavar="DIR", help="Folder for studies and cache, whose disk is checked.")
    ] = Path(),
    as_json: options.AsJson = False,
) -> None:
    """Check this machine: versions, GPUs, disk, Ray and weights. Prints a fix for each problem."""
    checks = xraytune.doctor(space=space, weights_dir=weights_dir, folder=folder)
    is_ready = all(check.status != "missing" for check in checks)
    if as_json:
        console.show_json({"ok": is_ready, "checks": checks})
    else:
        rows: list[Row] = [
            {
                "check": check.name,
                "status": Cell(check.status, _TONES[check.status]),
                "result and fix": f"{check.found}\n{check.fix}".strip(),
            }
            for check in checks
        ]
        heading = Cell("ready; try: xraytune demo", "good")
        if not is_ready:
            heading = Cell("something is missing", "bad")
        console.show(heading, Table(rows))
    if not is_ready:
        raise Exit(MachineError.exit_code)
