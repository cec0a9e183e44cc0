"""The options that several commands share, so that a name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Data: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The image folder, instead of the file's data.path."),
]
MovedData: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Where the study's images lie now, if they moved."),
]
WeightsDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A folder of official weight files, for a machine without a network; `xraytune doctor --space FILE` names "
        "them.",
    ),
]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace one line of the file, as in budget.trials=6; may be given again and again.",
    ),
]
SpaceFile: TypeAlias = Annotated[Path, typer.Option("--space", metavar="FILE", help="The space file (YAML).")]
Studies: TypeAlias = Annotated[Path, typer.Option(metavar="DIR", help="Where studies lie.")]
_SHARED_WORK = "Where shared work lies: decoded images, GANs, features; else in `cache`"
Cache: TypeAlias = Annotated[Path | None, typer.Option(metavar="DIR", help=f"{_SHARED_WORK}, beside the studies.")]
TrainCache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help=f"{_SHARED_WORK}, beside the studies that the file was exported from, or in the current folder.",
    ),
]
GanCache: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="DIR", help=f"{_SHARED_WORK}, in the current folder.")
]
SkipBroken: TypeAlias = Annotated[
    bool, typer.Option("--skip-broken", help="Leave broken images out, and list them, instead of refusing.")
]
AtSensitivity: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--at-sensitivity",
        metavar="SHARE",
        help="Call images positive at the threshold that finds this share of positive images, as in 0.95, by the model's "
        "validation images; else at the threshold for balanced accuracy.",
    ),
]
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
]
Address: TypeAlias = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="A Ray cluster; else Ray starts on this machine.")
]
Reason: TypeAlias = Annotated[str, typer.Option(help="Why, for the log of the test folder's openings.")]
StudyArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of a study.")]
ModelArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a trained model.")]
