"""Commands on single models: `train`, `evaluate` and `predict`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.cli import console, options


def train(
    out: Annotated[Path, options.out("MODEL", "Folder to create.")],
    study: Annotated[
        Path | None,
        Argument(metavar="STUDY", help="Study whose best configuration to train; or use --config."),
    ] = None,
    config: Annotated[
        Path | None,
        Option(
            "--config", metavar="FILE", help="Experiment file instead, e.g. from `xraytune export`."
        ),
    ] = None,
    members: Annotated[
        int,
        Option(
            metavar="K",
            help="Networks to train, each without another part of the patients; their "
            "probabilities are averaged.",
        ),
    ] = 1,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Train the final model, without Ray, and write it with a model card.

    Run the same command again to resume.

    Given a study, this runs `export` and trains the exported file: the mix that `confirm` found to
    help, or else the simplest one that is about as good as the best, with the trial's settings or
    those of `final:`, whichever score higher.

    Example: xraytune train --config best.yaml -o model
    """
    from xraytune.cli.results import expected_score, log_epoch
    from xraytune.model.train import train as train_model

    with console.show_progress() as on_progress:
        trained = train_model(
            study,
            config=config,
            out=out,
            members=members,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            cache=cache,
            skip_broken=skip_broken,
            extensions=extensions or (),
            on_epoch=log_epoch,
            on_progress=on_progress,
            note=console.event,
        )
    if as_json:
        console.show_json(trained)
        return
    record = trained.record
    scores = (
        f"val-A {trained.metric} {record.val_score:.3f}, val-B {trained.metric} "
        f"{record.val_b_score:.3f}"
    )
    network = f"epoch {record.best_epoch} of {trained.epochs}"
    if record.members > 1:
        network = f"average of {record.members} networks"
    console.write(f"{trained.path}: arm {record.arm}, {network}, {scores}")
    if record.positive and len(record.class_names) == 2:
        threshold = f"threshold for {record.positive}: {record.threshold:.3f}"
        console.write(f"{threshold}, chosen for balanced accuracy on patients not trained on")
    used = record.trained_on
    console.write(
        f"trained on {used.patients:,} of {used.of_patients:,} patients; on new patients of the "
        f"same hospital, expect {expected_score(record)}; elsewhere, scores are often lower and "
        "the threshold shifts: evaluate, and calibrate on about 50 labelled images"
    )
    console.propose(
        "evaluate",
        trained.path,
        data=trained.test_data or "OTHER_XRAYS",
        extensions=extensions or (),
        skip_broken=skip_broken,
        when="next" if trained.test_data else "next, with X-rays of other patients",
    )


def evaluate(
    model: options.ModelArgument,
    data: Annotated[
        Path,
        Option(
            metavar="DATA",
            help="Folder with one subfolder per class (for a segmenter, images/ and masks/), "
            "or data file (YAML), whose test images are used.",
        ),
    ],
    out: Annotated[
        Path | None,
        options.out("OUT", "Folder to create: predictions, tables (CSV, JSON) and pictures."),
    ] = None,
    by: Annotated[
        list[str] | None,
        Option(
            metavar="COLUMN",
            help="Also report subgroups by this column of the patient table; repeatable.",
        ),
    ] = None,
    calibrate_on: Annotated[
        Path | None,
        Option(
            metavar="DATA",
            help="First adapt the probabilities and the threshold to these labelled images: "
            "about 50, of the same hospital, of other patients. For two classes.",
        ),
    ] = None,
    reason: options.Reason = "",
    skip_broken: options.SkipBroken = False,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a model on labelled images or pairs, with 95 % intervals over patients.

    Example: xraytune evaluate model --data new_xrays
    """
    from xraytune.model.evaluate import evaluate as evaluate_model
    from xraytune.present.evaluation import evaluation_frame

    with console.show_progress() as on_progress:
        evaluation = evaluate_model(
            model,
            data=data,
            out=out,
            by=by or (),
            calibrate_on=calibrate_on,
            reason=reason,
            skip_broken=skip_broken,
            extensions=extensions or (),
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(evaluation)
        return
    console.show(*evaluation_frame(evaluation))
    if out:
        console.write(f"\n{out}: metrics.json, predictions (CSV) and pictures")


def predict(
    model: options.ModelArgument,
    images: Annotated[Path, Argument(metavar="FOLDER", help="Folder of images, or one image.")],
    out: Annotated[
        Path | None,
        options.out(
            "OUT",
            "CSV file to write, which one image does not need; for a segmenter, folder to create.",
        ),
    ] = None,
    skip_broken: options.SkipBroken = False,
    extensions: options.Extensions = None,
    as_json: options.AsJson = False,
) -> None:
    """Write images' class probabilities to a CSV file, or their masks and overlays to a folder.

    For one image, also print its probabilities.

    Example: xraytune predict model new_xrays -o predictions.csv
    """
    from xraytune.model.predict import predict as predict_images

    with console.show_progress() as on_progress:
        predicted = predict_images(
            model,
            images,
            out=out,
            skip_broken=skip_broken,
            extensions=extensions or (),
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(predicted)
        return
    for image in predicted.broken:
        console.log(f"left out: {image.file}: {image.reason}", "bad")
    file = f"{out}: " if out else ""
    console.write(f"{file}{predicted.summary}")
