"""`xraytune data`: inspect a folder of X-rays, or make phantom images."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from xraytune.cli import console, options


def data_inspect(
    source: options.DataArgument,
    classes: options.Classes = None,
    positive: Annotated[
        str | None,
        Option(
            metavar="CLASS",
            help="With two classes, the positive one, which sensitivity refers to; default: "
            "recognised by name.",
        ),
    ] = None,
    group_regex: options.GroupRegex = None,
    as_json: options.AsJson = False,
) -> None:
    """Summarise a folder of X-rays: its classes, patients, duplicates and broken files.

    Also finds shortcuts to the label. A folder with images/ and masks/ is summarised as pairs for
    segmentation.

    Example: xraytune data inspect chest_xray
    """
    console.event(f"inspecting {source}")  # before the imports
    from xraytune.data.inspect import inspect_folder
    from xraytune.present.inspection import inspection_frame
    from xraytune.space.load import override_of

    with console.show_progress() as on_progress:
        inspection = inspect_folder(
            source,
            classes=classes or "auto",
            positive=positive,
            group_regex=group_regex,
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(inspection)
        return
    console.show(*inspection_frame(source, inspection))
    overrides = [override_of("data.positive", positive)] if positive else []
    console.propose(
        "search",
        data=source,
        classes=classes,
        group_regex=group_regex,
        overrides=overrides,
        skip_broken=bool(inspection.broken),
    )


def data_phantom(
    out: Annotated[Path, Argument(metavar="OUT", help="Folder to create.")],
    patients: Annotated[
        int, Option(min=10, help="Number of patients, with one to four images each.")
    ] = 200,
    seed: Annotated[int, Option(help="Random seed; the same seed writes the same bytes.")] = 0,
    image_size_px: Annotated[
        int, Option("--size", metavar="PX", min=32, max=1024, help="Side length of the images.")
    ] = 256,
    difficulty: Annotated[
        float, Option(min=0, max=1, help="From 0, obvious lesions, to 1, invisible ones.")
    ] = 0.3,
    pairs: Annotated[
        bool,
        options.flag(
            "--masks",
            "Use the layout for segmentation: images/, and masks/ of the lungs; no classes.",
        ),
    ] = False,
    findings: Annotated[
        bool,
        options.flag(
            "--findings",
            "Show lobar and diffuse opacities and effusions, with a table of them; no classes.",
        ),
    ] = False,
    sites: Annotated[
        int,
        Option(
            min=0,
            max=26,
            help="Number of hospitals with different scanners to make, in folders SITE/CLASS "
            "without test/, with sex and age in patients.csv.",
        ),
    ] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Make phantom chest X-rays.

    Example: xraytune data phantom xrays --patients 200 --seed 1
    """
    from xraytune.data.phantom import paint_phantoms

    with console.show_progress() as on_progress:
        xrays = paint_phantoms(
            out,
            patients=patients,
            seed=seed,
            image_size_px=image_size_px,
            difficulty=difficulty,
            pairs=pairs,
            findings=findings,
            sites=sites,
            on_progress=on_progress,
        )
    if as_json:
        console.show_json(xrays)
        return
    what = ", with a table of findings, data.yaml" if findings else ""
    console.write(
        f"{out}: {xrays.image_count} phantom X-rays of {xrays.patient_count} patients{what}"
    )
