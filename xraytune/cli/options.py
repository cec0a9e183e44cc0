"""The options that several commands share, so that a name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Data: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The image folder, instead of the file's data.path."),
]
WeightsDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A folder of official weight files, for a machine without a network; `xraytune doctor` names them.",
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
Cache: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where shared work lies: decoded images, GANs, features; else in `cache`, beside the studies.",
    ),
]
SkipBroken: TypeAlias = Annotated[
    bool, typer.Option("--skip-broken", help="Leave broken images out, and list them, instead of refusing.")
]
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
]
StudyArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of a study.")]
ModelArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a trained model.")]
