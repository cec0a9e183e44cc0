"""The first command to try: `demo` runs the whole pipeline on phantom X-rays."""

from collections.abc import Callable
from pathlib import Path
from shlex import quote, split
from typing import Annotated

import typer
from typer import Argument
from typer.main import get_command

from xraytune.base.files import StrPath
from xraytune.cli import confirm, console, data, generator, model, options, search

_STEPS = """
Make chest X-rays of the large hospital A.
$ data phantom {at}/hospital_a --patients {patients_a} --seed 2 --size 64 --difficulty 0

Make those of hospital B. Its test/ folder stays sealed.
$ data phantom {at}/hospital_b --patients {patients_b} --seed 1 --size 64 --difficulty 0

Hospital A trains a GAN, and gives it away.
$ generator train -o {at}/gan_of_a --space commands/other_hospital_demo --cache {at}/cache
--data {at}/hospital_a --set data.train_patients=null --set source=gan --set gan.image_size=32
--set gan.width=16 --set gan.steps={gan_steps}

Hospital B has 10 patients. It searches: no extra images, its own repeated, or those of A's GAN?
$ search --space commands/other_hospital_demo --cache {at}/cache --data {at}/hospital_b
--studies {at}/studies --set generator.path={at}/gan_of_a {budget}

Confirm the best mix, on patients that the search never used.
$ confirm {at}/studies/other-hospital-demo --yes

Train the final model with the best mix.
$ train -o {at}/model {at}/studies/other-hospital-demo --set budget.max_epochs=1

Evaluate it on the test folder.
$ evaluate {at}/model --data {at}/hospital_b/test
"""
"""Each command of the demo, below a line on why it runs."""
_WHOLE = {"patients_a": 500, "patients_b": 600, "gan_steps": 1200, "budget": ""}
_QUICK = {
    "patients_a": 250,
    "patients_b": 600,
    "gan_steps": 500,
    "budget": "--set budget.trials=4 --set confirm.replicates=4",
}
_FUNCTIONS: dict[str, Callable[..., None]] = {
    "data phantom": data.data_phantom,
    "generator train": generator.generator_train,
    "search": search.search,
    "confirm": confirm.confirm,
    "train": model.train,
    "evaluate": model.evaluate,
}


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

    Example: xraytune demo
    """
    run_demo(folder, quick=quick)


def run_demo(folder: StrPath = Path("demo"), *, quick: bool = False) -> None:
    """Run the whole pipeline on phantom X-rays and print its steps; the same call resumes.

    Args:
        folder: Folder for all files.
        quick: Run a smaller demo, in the subfolder `quick`.
    """
    from xraytune.present.page import write_report

    demo_folder = Path(folder, "quick" if quick else "")
    steps = _STEPS.format(at=quote(str(demo_folder)), **(_QUICK if quick else _WHOLE))
    console.write(
        "From X-rays to an answer, on phantom images. You can run each of these commands yourself.",
        "strong",
    )
    for number, step in enumerate(steps.strip().split("\n\n"), start=1):
        reason, line = step.replace("\n", " ").strip().split(" $ ", 1)
        console.write(f"\n{number}. {reason}", "strong")
        console.write_command(f"xraytune {line}")
        name = next(name for name in _FUNCTIONS if line.startswith(name))
        words = split(line.removeprefix(name))
        product = Path(words[1] if words[0] == "-o" else words[0])
        if product.exists() and name in ("data phantom", "generator train", "train"):
            console.write(f"{product} already exists and is kept")
        else:
            _run(name, words)

    console.write("\nThese are phantoms. What holds for real X-rays, only real X-rays can tell.")
    for command in ("data inspect YOUR_FOLDER", "search --data YOUR_FOLDER"):
        console.write_command(f"xraytune {command}", "next: ")
    study = demo_folder / "studies" / "other-hospital-demo"
    report = write_report(study)
    console.write(
        f"made: {demo_folder / 'gan_of_a'} (the GAN of hospital A), {study} (search and verdict), "
        f"{demo_folder / 'model'} (the final model)"
    )
    console.write(f"open in a browser: {report}", "strong")


def _run(name: str, arguments: list[str]) -> None:
    """Run a command in this process, and raise its errors."""
    app = typer.Typer()
    app.command()(_FUNCTIONS[name])
    command = get_command(app)
    with command.make_context(name, arguments) as context:
        command.invoke(context)
