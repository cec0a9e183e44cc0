"""Options that several commands share, so that an option means the same everywhere."""

from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option


def flag(name: str, meaning: str) -> Any:
    """Return an option without a value, and without its opposite, `--no-...`."""
    return Option(name, help=meaning)


def out(metavar: str, meaning: str) -> Any:
    """Return the option for the file or folder that a command writes."""
    return Option("--out", "-o", metavar=metavar, help=meaning)


def _space(ending: str) -> Any:
    what = "Search space: a YAML file, or the name of one that comes with xraytune"
    return Option("--space", metavar="FILE", help=what + ending)


Data = Annotated[
    Path | None,
    Option(
        "--data",
        metavar="DATA",
        help="Image folder, or data file (YAML), instead of data.path in the file.",
    ),
]
MovedData = Annotated[
    Path | None,
    Option(
        "--data",
        metavar="DATA",
        help="New location of the study's images, if they were moved: folder or data file.",
    ),
]
WeightsDir = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        help="Folder of official weight files, for machines without network access; "
        "`xraytune plan --space FILE` lists the files needed.",
    ),
]
Classes = Annotated[
    Literal["auto", "binary", "three"] | None,
    Option(
        help="auto, the default: one class per folder; binary: NORMAL and PNEUMONIA; three: "
        "normal, bacterial and viral, by Kermany's file names."
    ),
]
GroupRegex = Annotated[
    str | None,
    Option(
        metavar="REGEX", help="Regular expression for file paths; its first group is the patient."
    ),
]
Overrides = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of the file, e.g. budget.trials=6; repeatable.",
    ),
]
SpaceFile = Annotated[Path, _space(", such as gan_ratio_cpu.")]
FirstSpaceFile = Annotated[
    Path | None, _space(". Without it, NAME.yaml is written for the images of --data NAME.")
]
Studies = Annotated[Path, Option(metavar="DIR", help="Folder of all studies.")]
DataArgument = Annotated[
    Path,
    Argument(
        metavar="DATA",
        help="Image folder, or data file (YAML) whose settings override these options.",
    ),
]
Cache = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        help="Folder for decoded images, generators and features; default: `cache`, "
        "next to the studies folder or, without a study, in the current folder.",
    ),
]
Extensions = Annotated[
    list[str] | None,
    Option(
        "--extension",
        metavar="FILE.py:CLASS",
        help="Your own generator, augmentation or backbone, as FILE.py:CLASS, or the YAML file of "
        "a program. It is named like the file, and its code is run. Repeatable.",
    ),
]
SkipBroken = Annotated[
    bool,
    flag("--skip-broken", "Leave out broken images and list them, instead of stopping."),
]
AsJson = Annotated[bool, flag("--json", "Print one JSON object to stdout, and nothing else.")]
Address = Annotated[
    str | None,
    Option(metavar="HOST:PORT", help="Ray cluster to use; default: start Ray on this machine."),
]
Yes = Annotated[bool, flag("--yes", "Access the test images without asking.")]
Reason = Annotated[str, Option(help="Reason to record in the test-set access log.")]
OutFolder = Annotated[Path, out("OUT", "Folder to create.")]
StudyArgument = Annotated[Path, Argument(metavar="STUDY", help="Folder of a study.")]
ModelArgument = Annotated[Path, Argument(metavar="MODEL", help="Folder of a trained model.")]
