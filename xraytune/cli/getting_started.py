"""The first commands to try: `demo` runs the whole pipeline on phantom X-rays, `doctor` checks this machine."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from shlex import quote, split
from typing import Annotated

from typer import Argument, Exit, Option
from typer.core import TyperCommand
from typer.main import get_command

from xraytune.base.errors import MachineError
from xraytune.base.tables import Cell, Row, Table, Tone, shown_path
from xraytune.cli import console, options

_WHOLE = (500, 1200, 1500, "")
_QUICK = (250, 850, 500, "--set budget.trials=4 --set confirm.replicates=4")
"""Patients of both hospitals, steps of the GAN, and the budget."""
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
    study = here / "studies" / "other-hospital-demo"
    at = quote(str(here))
    space = f"--space other_hospital_demo --cache {at}/cache"
    patients_a, patients_b, gan_steps, budget = _QUICK if quick else _WHOLE
    steps = (
        (
            "Draw chest X-rays of the large hospital A.",
            f"data phantom {at}/hospital_a --patients {patients_a} --seed 2 --size 64 --difficulty 0",
        ),
        (
            "Draw those of hospital B. Its test/ folder stays sealed.",
            f"data phantom {at}/hospital_b --patients {patients_b} --seed 1 --size 64 --difficulty 0",
        ),
        (
            "Hospital A trains a GAN, and gives it away.",
            f"generator train {space} --data {at}/hospital_a --set data.train_patients=null "
            f"--set gan.steps={gan_steps} -o {at}/gan_of_a",
        ),
        (
            "Hospital B has 40 patients. It searches: no extra images, repeated ones, a GAN of its own, "
            "or the GAN of A?",
            f"search {space} --data {at}/hospital_b --studies {at}/studies "
            f"--set generator.path={at}/gan_of_a {budget}",
        ),
        (
            "Confirm the best mix, on patients that the search never used.",
            f"confirm {at}/studies/other-hospital-demo --yes",
        ),
        (
            "Train the final model with the mix that helped, on all patients.",
            f"train {at}/studies/other-hospital-demo -o {at}/model",
        ),
        (
            "Evaluate it on the test folder.",
            f"evaluate {at}/model --data {at}/hospital_b/test",
        ),
    )

    console.write(
        "From X-rays to an answer, on phantom images. You can run each of these commands yourself.",
        "strong",
    )
    for number, (why, line) in enumerate(steps, start=1):
        console.write(f"\n{number}. {why}", "strong")
        console.write_command(f"xraytune {line}")
        words = split(line)
        product = Path(words[2] if "phantom" in words else words[-1])
        if product.exists() and ("phantom" in words or "-o" in words):
            console.write(f"{product} already exists and is kept")
        else:
            _run(words)
    _show_answer(study)


def _run(arguments: list[str]) -> None:
    """Run a command of xraytune in this process; its errors are raised."""
    main = import_module("xraytune.cli.main")  # which imports this module
    command = get_command(main.build_app())
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    with command.make_context(command.name, arguments) as context:
        TyperCommand.invoke(command, context)


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
