"""The table of the layers of an experiment's network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xraytune.data.index import find_class_names
from xraytune.nets.summary import ModelSummary, summarise
from xraytune.space.load import load_space
from xraytune.trial.task import task_of


def model_summary(config: Path, *, data: Path | None = None, overrides: Sequence[str] = ()) -> ModelSummary:
    """Return the layers of the network that an experiment trains, at its batch size. Reads no image and no weights.

    Args:
        config: A YAML file; of a space, the first of its `points_to_evaluate` is used.
        data: A data folder or data file instead of the file's; read only if `data.classes: auto` counts its class folders.
        overrides: `key=value` lines that replace the file's.

    Raises:
        ConfigError: The file is invalid.
        DataError: `data.classes: auto`, and there are no class folders.
    """
    experiment = load_space(config, overrides, data=data).experiment()
    settings, parameters = experiment.settings, experiment.parameters
    build = task_of(settings).build_network
    network = build(parameters, len(find_class_names(settings.data)), weights=None, seed=settings.seed)
    side_px = settings.data.image_size
    return summarise(network, (parameters.batch_size, parameters.input_channels, side_px, side_px))
