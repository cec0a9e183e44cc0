"""Options that several commands share, so that each means the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from typer import Argument, Option

Data: TypeAlias = Annotated[
    Path | None,
    Option(
        "--data",
        metavar="SOURCE",
        help="Image folder, or data file (YAML), instead of data.path in the file.",
    ),
]
MovedData: TypeAlias = Annotated[
    Path | None,
    Option(
        "--data",
        metavar="SOURCE",
        help="New location of the study's images, if they were moved: folder or data file.",
    ),
]
WeightsDir: TypeAlias = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        help="Folder of official weight files, for machines without network access; "
        "`xraytune doctor --space FILE` lists the files needed.",
    ),
]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of the file, e.g. budget.trials=6; repeatable.",
    ),
]
SpaceFile: TypeAlias = Annotated[
    Path,
    Option(
        "--space",
        metavar="FILE",
        help="Search space: a YAML file, or the name of one that comes with xraytune, "
        "such as gan_ratio_cpu.",
    ),
]
Studies: TypeAlias = Annotated[Path, Option(metavar="DIR", help="Folder of all studies.")]
DataSource: TypeAlias = Annotated[
    Path,
    Argument(
        metavar="SOURCE",
        help="Image folder, or data file (YAML) whose settings override these options.",
    ),
]
Cache: TypeAlias = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        help="Folder for decoded images, generators and features; default: `cache`, "
        "next to the studies folder or, without a study, in the current folder.",
    ),
]
SkipBroken: TypeAlias = Annotated[
    bool,
    Option(
        "--skip-broken",
        metavar="",
        help="Leave out broken images and list them, instead of stopping.",
    ),
]
AsJson: TypeAlias = Annotated[
    bool, Option("--json", metavar="", help="Print one JSON object to stdout, and nothing else.")
]
Address: TypeAlias = Annotated[
    str | None,
    Option(metavar="HOST:PORT", help="Ray cluster to use; default: start Ray on this machine."),
]
DryRun: TypeAlias = Annotated[
    bool, Option("--dry-run", metavar="", help="Only print what would be removed.")
]
Yes: TypeAlias = Annotated[
    bool, Option("--yes", metavar="", help="Access the test images without asking.")
]
Reason: TypeAlias = Annotated[str, Option(help="Reason to record in the test-set access log.")]
OutFolder: TypeAlias = Annotated[
    Path, Option("--out", "-o", metavar="OUT", help="Folder to create.")
]
StudyArgument: TypeAlias = Annotated[Path, Argument(metavar="STUDY", help="Folder of a study.")]
ModelArgument: TypeAlias = Annotated[
    Path, Argument(metavar="MODEL", help="Folder of a trained model.")
]
