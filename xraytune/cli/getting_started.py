"""The first commands to try: `demo` runs the whole pipeline on phantom X-rays, `doctor` checks this machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from xraytune.base.errors import MachineError, Problem
from xraytune.cli import console, options
from xraytune.cli.confirm import ConfirmScreen, show_rehearsal
from xraytune.cli.data import show_phantoms
from xraytune.cli.model import show_evaluation, show_training
from xraytune.cli.search import SearchScreen, show_search, shown_path
from xraytune.cli.study import show_export
from xraytune.present.tables import Cell, Column, Table, Tone, facts

if TYPE_CHECKING:
    from xraytune.model.class_evaluation import Evaluation

QUICK_OVERRIDES = ("budget.trials=4", "budget.max_epochs=4", "scheduler.grace=1", "gan.steps=60")
_SIZE_PX = 128
_TONES: dict[str, Tone] = {"ok": "good", "warning": "busy", "missing": "bad"}


def demo(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Folder for all files.")] = Path("demo"),
    quick: Annotated[bool, Option("--quick", help="Run a smaller demo in FOLDER/quick: about a minute.")] = False,
) -> None:
    """Run the whole pipeline on phantom X-rays in minutes, from the search to the evaluation. Run again to resume."""
    from xraytune.confirm.run import rehearse
    from xraytune.data.phantom import draw_phantoms
    from xraytune.model.best import export
    from xraytune.model.class_evaluation import Evaluation
    from xraytune.model.evaluate import evaluate
    from xraytune.model.train import train
    from xraytune.search.run import search

    here = folder / "quick" if quick else folder
    names = ("xrays", "other_xrays", "studies", "best.yaml", "model")
    xrays, others, studies, config, model = (here / name for name in names)
    space, overrides, test = _space_file(), QUICK_OVERRIDES if quick else (), others / "test"
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
            continue
        with console.progress() as on_progress:
            drawn = draw_phantoms(out, patients=patients, seed=seed, image_size_px=_SIZE_PX, on_progress=on_progress)
        show_phantoms(drawn)

    settings = (word for override in overrides for word in ("--set", override))
    why = "Search: is it better to add nothing, repeated real images or GAN images, and how many?"
    announce(why, "search", "--space", space, "--data", xrays, "--studies", studies, *settings)
    with SearchScreen() as callbacks:
        view = search(space, data=xrays, overrides=overrides, studies=studies, callbacks=callbacks)
    show_search(view, next_step=False)

    study = studies / view.name
    why = "Rehearse the comparison with controls that `confirm` makes on the test folder."
    announce(why, "confirm", study, "--quick")
    with ConfirmScreen() as screen:
        rehearsal = rehearse(study, callbacks=screen.callbacks)
    show_rehearsal(rehearsal, next_step=False)

    announce("Export the configuration that is best on val-B.", "export", study, "-o", config)
    show_export(export(study, out=config), next_step=False)

    announce("Train the final model.", "train", "--config", config, "-o", model)
    if model.exists():
        console.write(f"{model} already exists and is kept")
    else:
        with console.progress() as on_progress:
            trained = train(config, out=model, on_progress=on_progress)
        show_training(trained, next_step=False)

    announce("Evaluate the model on the other patients.", "evaluate", model, "--data", test)
    with console.progress() as on_progress:
        evaluation = evaluate(model, data=test, on_progress=on_progress)
    show_evaluation(evaluation)

    assert isinstance(evaluation, Evaluation), "the model is a classifier"
    _show_demo({"X-rays": xrays, "study": study, "configuration": config, "model": model}, evaluation)


def _show_demo(paths: Mapping[str, Path], evaluation: Evaluation) -> None:
    auroc, (low, high) = evaluation.value_of("auroc"), evaluation.intervals["auroc"]
    console.write("\nThe files of the demo", "strong")
    console.show(
        "This is a demo, not evidence: the images are computer-generated, the GAN is barely trained, and with so few "
        f"patients such differences are due to chance. On new patients, the model reached an AUROC of {auroc:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f}).",
        facts(*((name, str(path)) for name, path in paths.items())),
    )
    console.write_command(f"xraytune status {shlex.quote(str(paths['study']))}", "all trials: ")
    console.write("\nWith your own images", "strong")
    layout = "train/NORMAL and train/PNEUMONIA, and a held-out test/ with the same subfolders"
    console.write(f"  Use a folder with {layout}:")
    console.write_command("xraytune data inspect YOUR_FOLDER", "  $ ")
    console.write_command("xraytune search --space search_spaces/gan_ratio_cpu.yaml --data YOUR_FOLDER", "  $ ")


def _space_file() -> Path:
    """Find `search_spaces/demo.yaml`: next to the package in a clone, inside it in an installation."""
    package = Path(__file__).parents[1]
    for folder in (package.parent, package):
        if (file := folder / "search_spaces" / "demo.yaml").is_file():
            return shown_path(file)
    raise MachineError(Problem("search_spaces/demo.yaml is missing", package, "reinstall xraytune"))


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
        texts = ("\n".join(filter(None, (one.found, one.fix))) for one in checks)
        rows = [(one.name, Cell(one.status, _TONES[one.status]), text) for one, text in zip(checks, texts, strict=True)]
        heading = Cell("ready; try: xraytune demo", "good") if is_ready else Cell("something is missing", "bad")
        console.show(heading, Table(("check", "status", Column("result and fix", flexible=True)), rows))
    if not is_ready:
        raise Exit(MachineError.exit_code)
