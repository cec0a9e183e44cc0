"""`xraytune draws` and `xraytune judge`: a verdict on trainings that xraytune did not run.

`judge` loads neither torch nor Ray nor Optuna, which the results of other commands need.
"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.cli import console, options


def draws(
    data: Annotated[
        Path, Option("--data", metavar="DATA", help="Image folder, or data file (YAML).")
    ],
    train_patients: Annotated[
        int, Option(min=2, metavar="N", help="Patients that each replicate is trained on.")
    ],
    replicates: Annotated[
        int, Option(min=2, metavar="N", help="Number of trainings of each arm.")
    ] = 10,
    seen: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="SHA-256 of images that a generator has seen: their patients are left out.",
        ),
    ] = None,
    classes: options.Classes = None,
    group_regex: options.GroupRegex = None,
    seed: Annotated[int, Option(metavar="N", help="Seed of the split.")] = 0,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    out: Annotated[Path, options.out("OUT", "Folder to create.")] = Path("draws"),
    as_json: options.AsJson = False,
) -> None:
    """Write training sets and a sealed test set for trainings of your own.

    They are those that `confirm` would use.

    Example: xraytune draws --data chest_xray --train-patients 100 -o draws
    """
    from xraytune.draws import draws as draw

    with console.show_progress() as on_progress:
        drawn = draw(
            data,
            train_patients=train_patients,
            replicates=replicates,
            seen=seen,
            classes=classes or "auto",
            group_regex=group_regex,
            seed=seed,
            cache=cache,
            skip_broken=skip_broken,
            out=out,
            on_progress=on_progress,
            note=console.event,
        )
    if as_json:
        console.show_json(drawn)
        return
    trained = f"{len(drawn.draws)} training sets of {drawn.train_patients} patients"
    scored = ""
    if drawn.kind == "folder":
        trained = f"the same {drawn.train_patients} training patients for all replicates"
    elif drawn.kind == "outside":
        scored = "; each replicate is scored on those outside its own training set"
    console.write(
        f"{out}: {trained}, and {len(drawn.patients):,} test images of "
        f"{len({*drawn.patients.values()}):,} patients{scored}"
    )
    console.write(f"{out}/README.md says what to do; then run `xraytune judge`")


def judge(
    predictions: Annotated[
        Path,
        Argument(
            metavar="PREDICTIONS",
            help="CSV file with arm, replicate, file, and p_CLASS, p_FINDING or dice.",
        ),
    ],
    finalist: Annotated[str, Option(metavar="ARM", help="The arm with synthetic images.")],
    none: Annotated[
        str, Option(metavar="ARM", help="The same settings, without extra images.")
    ] = "",
    duplicate: Annotated[
        str, Option(metavar="ARM", help="The same settings, with repeated real images.")
    ] = "",
    tuned: Annotated[
        list[str] | None,
        Option(metavar="ARM", help="A best arm without synthetic images; repeatable."),
    ] = None,
    donor: Annotated[
        str, Option(metavar="ARM", help="The classifier that another hospital could send.")
    ] = "",
    donor_start: Annotated[
        str, Option(metavar="ARM", help="A training that starts from that classifier.")
    ] = "",
    synthetic_only: Annotated[
        str, Option(metavar="ARM", help="A training on synthetic images alone.")
    ] = "",
    real_images: Annotated[
        str, Option(metavar="ARM", help="Real images of other patients as extra images.")
    ] = "",
    leave_out_site: Annotated[
        bool,
        Option(
            "--leave-out-site",
            help="Replicate k was trained without the k-th of the sorted sites (column site).",
        ),
    ] = False,
    draws: Annotated[
        Path | None,
        Option(metavar="DIR", help="Folder of `xraytune draws`, which has labels and patients."),
    ] = None,
    runs: Annotated[
        Path | None,
        Option(metavar="FILE", help="CSV file with arm, replicate, steps and real_images."),
    ] = None,
    by: Annotated[
        list[str] | None,
        Option(metavar="COLUMN", help="Also compare in subgroups; repeatable."),
    ] = None,
    table: Annotated[
        Path | None,
        Option(metavar="FILE", help="CSV file with file or patient, and the columns of --by."),
    ] = None,
    positive: Annotated[str, Option(metavar="CLASS", help="The positive one of two classes.")] = "",
    rope: Annotated[float, Option(min=1e-6, help="Equivalence margin.")] = 0.01,
    out: Annotated[Path, options.out("OUT", "Folder to create.")] = Path("judged"),
    as_json: options.AsJson = False,
) -> None:
    """Judge predictions of trainings of your own, as `confirm` judges those of xraytune.

    Example: xraytune judge predictions.csv --draws draws --finalist gan --none none
    """
    from xraytune.judge import judge as judge_predictions
    from xraytune.present.verdict import verdict_frame

    confirmation = judge_predictions(
        predictions,
        finalist=finalist,
        none=none,
        duplicate=duplicate,
        tuned=tuned or (),
        donor=donor,
        donor_start=donor_start,
        synthetic_only=synthetic_only,
        real_images=real_images,
        leave_out_site=leave_out_site,
        draws=draws,
        runs=runs,
        by=by or (),
        table=table,
        positive=positive,
        rope=rope,
        out=out,
    )
    if as_json:
        console.show_json(confirmation)
        return
    console.show(*verdict_frame(confirmation))
    for item in confirmation.declared:
        console.write(f"Not checked: {item}.")
    console.write(f"{out}: report.html, verdict.json, and methods.md for a paper")
