"""The search space of an audit: no extra images, repeated real ones, or those of the folder, with one classifier.

The classifier is that of a space file, or a frozen MobileNetV2. The audit sets everything about the mix itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from xraytune.config.document import Document, parse_yaml, read_document
from xraytune.config.load import space_of_document
from xraytune.config.settings import USED_ONLY_BY, FolderSettings, Parameters
from xraytune.config.space import Space
from xraytune.data.index import ImageFile
from xraytune.errors import DataError
from xraytune.pipeline.extra_folder import require_enough
from xraytune.pipeline.prepare import Prepared
from xraytune.records import Json

RATIOS = (0.25, 0.5, 1.0, 2.0)
_CLASSIFIER = """\
data: {split: {val_a: 0.2, val_b: 0.2}}  # the quality figures need 50 images of each class on each side
parameters:
  backbone: {value: mobilenet_v2}
  trainable: {value: head}
  lr: {value: 3e-3}
"""
_OF_THE_MIX = {"source", "match_resolution", *USED_ONLY_BY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The ratios that a folder has enough images for, and how its classes are mixed; without ratios, `why`."""

    ratios: tuple[float, ...] = RATIOS
    balance: Literal["natural", "equal"] = "natural"
    why: str = ""

    def parameters(self, ratio: float, synthetic: Path) -> Parameters:
        """Return the parameters of a mix with the folder's images."""
        folder = FolderSettings(path=synthetic)
        return Parameters(source="folder", folder=folder, synthetic_ratio=ratio, balance=self.balance)


def feasible_mix(images: Sequence[ImageFile], synthetic: Path, prepared: Prepared) -> Mix:
    """Return the mix that the usable images allow: with the real class shares or, if they are too few, equal ones."""
    why = ""
    for mix in (Mix(), Mix(balance="equal")):
        ratios = []
        for ratio in RATIOS:
            try:
                require_enough(images, mix.parameters(ratio, synthetic), prepared)
                ratios.append(ratio)
            except DataError as error:
                why = why or f"the smallest ratio is {ratio:g}, but there are only {error.problems[0].what}"
        if ratios:
            return replace(mix, ratios=tuple(ratios))
    return Mix(ratios=(), why=why)


def audit_space(
    real: Path,
    synthetic: Path,
    mix: Mix,
    *,
    model_space: Path | None = None,
    overrides: Sequence[str] = (),
    weights_dir: Path | None = None,
) -> Space:
    """Return the space of an audit, with the arguments of `audit`; raise ConfigError if the file or an override is invalid.

    The parameters of a model space, except those of the mix, describe the classifier. Parameters that it searches are still
    searched, with its budget.
    """
    given = read_document(model_space) if model_space else parse_yaml(_CLASSIFIER, lambda _: "built-in")
    content = {key: value for key, value in given.mapping().items() if key not in ("exported_from", "final")}
    parameters = given.mapping(("parameters",))
    own = {key: value for key, value in parameters.items() if key.partition(".")[0] not in _OF_THE_MIX}
    points: list[Json] = [{"source": "none"}]
    points += [
        {"source": source, "synthetic_ratio": ratio} for source in ("folder", "duplicate") for ratio in mix.ratios
    ]
    document = _grafted(
        replace(given, content={**content, "parameters": own}),
        {
            "name": f"audit-{re.sub(r'[^A-Za-z0-9._-]+', '-', synthetic.resolve().name)}"[:64],
            "parameters.source": {"values": ["none", "duplicate", "folder"]},
            "parameters.synthetic_ratio": {"values": [*mix.ratios]},
            "parameters.balance": {"value": mix.balance},
            "parameters.folder": {"parameters": {"path": {"value": str(synthetic.absolute())}}},
            "points_to_evaluate": points,
            "quality.allow_memorised": True,
            "confirm.finalists": 1,
        },
    )
    # Without other searched parameters, the points are the whole space, and matched controls are also tuned ones.
    whole: dict[str, Json] = {
        "budget.trials": len(points),
        "scheduler": {"name": "none"},
        "confirm.controls": {"tuned": []},
    }
    space = space_of_document(_grafted(document, whole), overrides, data=real, weights_dir=weights_dir)
    if all(spec.name in ("source", "synthetic_ratio") for spec in space.specs if spec.domain.is_open):
        return space
    return space_of_document(document, overrides, data=real, weights_dir=weights_dir)


def _grafted(document: Document, settings: Mapping[str, Json]) -> Document:
    for key, value in settings.items():
        document = document.with_value(tuple(key.split(".")), value, "audit")
    return document
