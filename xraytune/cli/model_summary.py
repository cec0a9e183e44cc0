"""`xraytune model summary --config FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table
from xraytune.cli.options import AsJson, Data, Overrides
from xraytune.records import Json

if TYPE_CHECKING:
    from xraytune.classifier.summary import LayerSummary, ModelSummary


def summary(
    config: Annotated[
        Path,
        typer.Option(
            "--config", metavar="FILE", help="The experiment, or a space and its first points_to_evaluate line."
        ),
    ],
    data: Data = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show the network of an experiment: each layer, its output's shape, its parameters, and the memory."""
    from xraytune.pipeline.model import model_summary

    found = model_summary(config, data=data, overrides=overrides or ())
    if as_json:
        console.show_json(_json(found))
    else:
        console.show(_frame(config, found))


def _frame(config: Path, found: ModelSummary) -> Frame:
    columns = (
        Column(name="layer"),
        Column(name="output shape"),
        Column(name="parameters", align="right"),
        Column(name="trained"),
    )
    rows = tuple(_row(number, layer) for number, layer in enumerate(found.layers, 1))
    whole, trained = found.total_params, found.trainable_params
    memory = console.facts(
        ("parameters", f"{whole:,}"),
        ("trained", f"{trained:,}"),
        ("frozen", f"{whole - trained:,}"),
        ("memory of a batch", f"{found.input_mebibytes:,.2f} MiB"),
        ("of outputs and gradients", f"{found.activations_mebibytes:,.2f} MiB, if none were freed"),
        ("of parameters", f"{found.params_mebibytes:,.2f} MiB"),
    )
    heading = Cell(f"{config}: {len(found.layers)} layers", "strong")
    batch = Cell(f"a batch: {list(found.input_shape)} float32", "dim")
    return Frame(lines=(heading, batch), tables=(Table(columns=columns, rows=rows), memory))


def _row(number: int, layer: LayerSummary) -> tuple[Cell | str, ...]:
    name = f"{layer.kind}-{number}"
    trained = Cell("yes" if layer.is_trained else "no", "good" if layer.is_trained else "dim") if layer.params else ""
    return name, str(list(layer.output_shape)), f"{layer.params:,}", trained


def _json(found: ModelSummary) -> dict[str, Json]:
    layers: list[Json] = [
        {
            "layer": f"{layer.kind}-{number}",
            "output_shape": list(layer.output_shape),
            "params": layer.params,
            "trained": layer.is_trained,
            "module": layer.name,
        }
        for number, layer in enumerate(found.layers, 1)
    ]
    return {
        "input_shape": list(found.input_shape),
        "total_params": found.total_params,
        "trainable_params": found.trainable_params,
        "non_trainable_params": found.total_params - found.trainable_params,
        "memory_mib": {
            "input": round(found.input_mebibytes, 2),
            "outputs_and_gradients": round(found.activations_mebibytes, 2),
            "parameters": round(found.params_mebibytes, 2),
        },
        "layers": layers,
    }
