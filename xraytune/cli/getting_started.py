"""The first commands to try: `demo` runs the whole pipeline on phantom X-rays, `doctor` checks this machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from xraytune.base.errors import MachineError
from xraytune.base.tables import Cell, Row, Table, Tone, shown_path
from xraytune.cli import confirm, console, data, generator, model, options, search

QUICK_OVERRIDES = ("budget.trials=4", "confirm.replicates=4")
_SPACE = Path("other_hospital_demo")
_SIZE_PX = 64
_TONES: dict[str, Tone] = {"ok": "good", "warning": "busy", "missing": "bad"}


def demo(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Folder for all files.")] = Path(
        "demo"
    ),
    quick: Annotated[
        bool, Option("--quick", help="Run a smaller demo in FOLDER/quick: about a minute.")
    ] = False,
) -> None:
    """Run the whole pipeline on phantom X-rays in minutes, from the images to a verdict. Run again to resume."""
    here = folder / "quick" if quick else folder
    hospital_a = here / "hospital_a"
    hospital_b = here / "hospital_b"
    gan = here / "gan_of_a"
    study = here / "studies" / "other-hospital-demo"
    trained = here / "model"
    numbers = count(1)

    def announce(why: str, *command: object) -> None:
        console.write(f"\n{next(numbers)}. {why}", "strong")
        console.write_command(shlex.join(map(str, ("xraytune", *command))))

    def is_missing(path: Path) -> bool:
        if path.exists():
            console.write(f"{path} already exists and is kept")
        return not path.exists()

    console.write(
        "From X-rays to an answer, on phantom images. You can run each of these commands yourself.",
        "strong",
    )

    for hospital, patients, seed, why in (
        (hospital_a, 250 if quick else 500, 2, "Draw chest X-rays of the large hospital A."),
        (
            hospital_b,
            850 if quick else 1200,
            1,
            "Draw those of hospital B. Its test/ folder stays sealed.",
        ),
    ):
        size = ("--size", _SIZE_PX, "--difficulty", 0)
        announce(why, "data", "phantom", hospital, "--patients", patients, "--seed", seed, *size)
        if is_missing(hospital):
            data.phantom(
                hospital, patients=patients, seed=seed, image_size_px=_SIZE_PX, difficulty=0
            )

    of_a = ["data.train_patients=null", f"gan.steps={500 if quick else 1500}"]
    command = (
        "generator",
        "train",
        "--space",
        _SPACE,
        "--data",
        hospital_a,
        *_settings(of_a),
        "-o",
        gan,
    )
    announce("Hospital A trains a GAN, and gives it away.", *command)
    if is_missing(gan):
        generator.train(_SPACE, out=gan, data=hospital_a, overrides=of_a, cache=here / "cache")

    of_b = [f"generator.path={gan}", *(QUICK_OVERRIDES if quick else ())]
    why = "Hospital B has 40 patients. It searches: no extra images, repeated ones, a GAN of its own, or the GAN of A?"
    announce(
        why,
        "search",
        "--space",
        _SPACE,
        "--data",
        hospital_b,
        "--studies",
        study.parent,
        *_settings(of_b),
    )
    search.search(_SPACE, data=hospital_b, overrides=of_b, studies=study.parent)

    announce(
        "Confirm the best mix, on patients that the search never used.", "confirm", study, "--yes"
    )
    confirm.confirm(study, yes=True)

    announce(
        "Train the final model with the mix that helped, on all patients.",
        "train",
        study,
        "-o",
        trained,
    )
    if is_missing(trained):
        model.train(out=trained, study=study)

    announce("Evaluate it on the test folder.", "evaluate", trained, "--data", hospital_b / "test")
    model.evaluate(trained, data=hospital_b / "test")
    _show_answer(study)


def _settings(overrides: Iterable[str]) -> Iterator[str]:
    return (word for override in overrides for word in ("--set", override))


def _show_answer(study: Path) -> None:
    """Print the verdict of the demo, how to ask the same of other images, and the path of the report."""
    from xraytune.confirm.arms import CONFIRM_FOLDER
    from xraytune.confirm.record import read_verdict
    from xraytune.present.page import write_report
    from xraytune.present.verdict import verdict_section

    confirmation = read_verdict(study / CONFIRM_FOLDER)
    assert confirmation is not None, "confirm has just written it"
    finalist = confirmation.finalists[0]
    without = finalist.comparisons[0]
    console.write("\nThe answer", "strong")
    answer = verdict_section(confirmation)
    console.write(answer.lead, answer.tone)
    console.write(
        f"The mean AUROC of {finalist.arm} on {confirmation.test.patients} new patients is {finalist.score:.3f}, and "
        f"{without.control_score:.3f} without synthetic images: a difference of {without.difference:+.3f} "
        f"({without.low:+.3f} to {without.high:+.3f})."
    )
    console.write("These are phantoms. What holds for real X-rays, only real X-rays can tell.")
    for command in ("data inspect YOUR_FOLDER", "search --space gan_ratio_cpu --data YOUR_FOLDER"):
        console.write_command(f"xraytune {command}", "next: ")
    console.write(f"report: {shown_path(write_report(study))}")


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
    from xraytune.search.doctor import doctor

    checks = doctor(space=space, weights_dir=weights_dir, folder=folder)
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
        heading = (
            Cell("ready; try: xraytune demo", "good")
            if is_ready
            else Cell("something is missing", "bad")
        )
        console.show(heading, Table(rows, text=("check", "status", "result and fix")))
    if not is_ready:
        raise Exit(MachineError.exit_code)
