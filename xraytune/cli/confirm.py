"""`xraytune confirm` runs the confirmation of a study.

`xraytune audit` evaluates a folder of synthetic images.
"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.cli import console, options


def confirm(
    study: options.StudyArgument,
    test: Annotated[
        list[Path] | None,
        Option(
            metavar="DATA",
            help="Test images of a further hospital, or those for the verdict if the study has "
            "none: class folders (segmentation: images/ and masks/) or a data file (YAML). "
            "Repeatable; also after the confirmation.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        Option(
            metavar="COLUMN",
            help="Also compare subgroups: by a column of the test images' table, such as sex, by a "
            "DICOM keyword, or by site. Repeatable; also after the confirmation.",
        ),
    ] = None,
    data: options.MovedData = None,
    weights_dir: options.WeightsDir = None,
    finalists: Annotated[
        int | None,
        Option(
            min=1, metavar="N", help="Number of best mixes to test; overrides the study's setting."
        ),
    ] = None,
    replicates: Annotated[
        int | None,
        Option(
            min=2,
            metavar="N",
            help="Number of trainings of each mix and control; overrides the study's setting. A "
            "larger number than before extends the confirmation.",
        ),
    ] = None,
    yes: options.Yes = False,
    cache: options.Cache = None,
    address: options.Address = None,
    extensions: options.Extensions = None,
    reason: options.Reason = "",
    as_json: options.AsJson = False,
) -> None:
    """Test the best mixes against matched and tuned controls, on patients that no trial has seen.

    All of them are trained again, with new seeds.

    Example: xraytune confirm studies/gan-ratio
    """
    from xraytune.cli.results import print_confirmation, show_confirmation
    from xraytune.confirm.run import confirm as confirm_study

    with show_confirmation(is_asked=not (yes or as_json)) as callbacks:
        confirmation = confirm_study(
            study,
            test=test or (),
            by=by or (),
            data=data,
            weights_dir=weights_dir,
            finalists=finalists,
            replicates=replicates,
            cache=cache,
            address=address,
            extensions=extensions or (),
            reason=reason,
            callbacks=callbacks,
        )
    if as_json:
        console.show_json(confirmation)
    else:
        print_confirmation(confirmation)


def audit(
    real: options.DataArgument,
    synthetic: Annotated[
        Path,
        Argument(
            metavar="SYNTHETIC", help="Synthetic images, in class folders named like the real ones."
        ),
    ],
    test: Annotated[
        Path | None,
        Option(
            metavar="DATA",
            help="Test images of other patients if DATA has none, as for `confirm`.",
        ),
    ] = None,
    classes: options.Classes = None,
    quick: Annotated[
        bool,
        options.flag(
            "--quick", "Only measure the images; no training, and the test folder stays sealed."
        ),
    ] = False,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    studies: options.Studies = Path("studies"),
    cache: options.Cache = None,
    skip_broken: options.SkipBroken = False,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate synthetic images against real ones: copies, realism, and benefit to a classifier.

    Example: xraytune audit chest_xray generated
    """
    from xraytune.audit import audit as audit_images
    from xraytune.cli.results import print_audit, show_confirmation

    with show_confirmation(is_asked=not (yes or as_json)) as callbacks:
        result = audit_images(
            real,
            synthetic,
            test=test,
            classes=classes or "auto",
            quick=quick,
            weights_dir=weights_dir,
            overrides=overrides or (),
            studies=studies,
            cache=cache,
            skip_broken=skip_broken,
            callbacks=callbacks,
        )
    if as_json:
        console.show_json(result)
    else:
        print_audit(result)
