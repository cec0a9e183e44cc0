"""The first commands to try: `demo` runs the whole pipeline on phantom X-rays, `doctor` checks this machine."""

from __future__ import annotations

import shlex
from itertools import count
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from xraytune.base.errors import MachineError
from xraytune.cli import confirm, console, data, model, options, search
from xraytune.present.tables import Cell, Column, Table, Tone, facts

QUICK_OVERRIDES = ("budget.trials=4", "budget.max_epochs=4", "scheduler.grace=1", "gan.steps=60")
_SIZE_PX = 128
_TONES: dict[str, Tone] = {"ok": "good", "warning": "busy", "missing": "bad"}


def demo(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Folder for all files.")] = Path("demo"),
    quick: Annotated[bool, Option("--quick", help="Run a smaller demo in FOLDER/quick: about a minute.")] = False,
) -> None:
    """Run the whole pipeline on phantom X-rays in minutes, from the search to the evaluation. Run again to resume."""
    here = folder / "quick" if quick else folder
    xrays, others, studies, trained = (here / name for name in ("xrays", "other_xrays", "studies", "model"))
    space, study, overrides = Path("demo"), studies / "demo", QUICK_OVERRIDES if quick else ()
    numbers = count(1)

    def announce(why: str, *command: object) -> None:
        console.write(f"\n{next(numbers)}. {why}", "strong")
        console.write_command(shlex.join(map(str, ("xraytune", *command))))

    console.write("From X-rays to an answer, on phantom images. You can run each of these commands yourself.", "strong")
    for out, patients, seed, why in (
        (xrays, 60 if quick else 120, 1, "Draw chest X-rays for the search. Its test/ folder stays sealed."),
        (others, 100 if quick else 300, 2, "Draw X-rays of other patients, to evaluate the final model."),
    ):
        announce(why, "data", "phantom", out, "--patients", patients, "--seed", seed, "--size", _SIZE_PX)
        if out.exists():
            console.write(f"{out} already exists and is kept")
        else:
            data.phantom(out, patients=patients, seed=seed, size=_SIZE_PX)
    settings = (word for override in overrides for word in ("--set", override))
    why = "Search: is it better to add nothing, repeated real images or GAN images, and how many?"
    announce(why, "search", "--space", space, "--data", xrays, "--studies", studies, *settings)
    search.search(space, data=xrays, overrides=[*overrides], studies=studies)
    announce("Confirm: compare the best mix with its controls on the test folder.", "confirm", study, "--yes")
    confirm.confirm(study, yes=True)
    announce("Train the final model: the simplest mix that is as good as the best.", "train", study, "-o", trained)
    if trained.exists():
        console.write(f"{trained} already exists and is kept")
    else:
        model.train(out=trained, study=study)
    announce("Evaluate the model on the other patients.", "evaluate", trained, "--data", others / "test")
    model.evaluate(trained, data=others / "test")
    console.write("\nThe files of the demo", "strong")
    console.show(
        "This is a demo, not evidence: the images are computer-generated, the GAN is barely trained, and with so few "
        "patients such differences are due to chance.",
        facts(("X-rays", str(xrays)), ("study", str(study)), ("model", str(trained))),
    )
    console.write_command(f"xraytune status {shlex.quote(str(study))}", "all trials: ")
    console.write("\nWith your own images", "strong")
    layout = "train/NORMAL and train/PNEUMONIA, and a held-out test/ with the same subfolders"
    console.write(f"  Use a folder with {layout}:")
    console.write_command("xraytune data inspect YOUR_FOLDER", "  $ ")
    console.write_command("xraytune search --space gan_ratio_cpu --data YOUR_FOLDER", "  $ ")


def doctor(
    space: Annotated[
        Path | None, Option(metavar="FILE", help="Search space file; checks the weights that its trials need.")
    ] = None,
    weights_dir: options.WeightsDir = None,
    folder: Annotated[
        Path, Option(metavar="DIR", help="Folder for studies and cache, whose disk is checked.")
    ] = Path(),
    as_json: options.AsJson = False,
) -> None:
    """Check this machine: versions, GPUs, disk, Ray and weights. Prints a fix for each problem."""
    from xraytune.search.doctor import doctor

    checks = doctor(space=space, weights_dir=weights_dir, folder=folder)
    is_ready = all(check.status != "missing" for check in checks)
    if as_json:
        console.show_json({"ok": is_ready, "checks": checks})
    else:
        rows = [
            (check.name, Cell(check.status, _TONES[check.status]), f"{check.found}\n{check.fix}".strip())
            for check in checks
        ]
        heading = Cell("ready; try: xraytune demo", "good") if is_ready else Cell("something is missing", "bad")
        console.show(heading, Table(("check", "status", Column("result and fix", flexible=True)), rows))
    if not is_ready:
        raise Exit(MachineError.exit_code)
