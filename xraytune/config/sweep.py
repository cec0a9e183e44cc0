"""Translate W&B sweep files to space files.

Keys are renamed one by one. The result is checked like any space file; whatever fails is left out and reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from xraytune.config.document import Document, KeyPath, Problems, dotted, read_document, write_yaml
from xraytune.config.fields import ParameterField, parameter_fields
from xraytune.config.grammar import ROOT
from xraytune.config.load import read_space
from xraytune.config.messages import NO_COUNTERPART, OUR_NAMES, SAMPLERS, scheduler_of
from xraytune.config.settings import METRICS
from xraytune.errors import ConfigError, Problem
from xraytune.files import require_new, write_text
from xraytune.records import Json

_Drop: TypeAlias = Callable[[KeyPath, str], None]
_SETTINGS = {"name": "name", "method": "sampler.name", "run_cap": "budget.trials", "project": "tracking.wandb.project"}
_SCORES = {"auc": "auroc", "roc_auc": "auroc", "average_precision": "auprc", "pr_auc": "auprc", "dice_score": "dice"}
_NO_LETTERS = re.compile(r".*\.|[^a-z0-9]")
_EXPONENTS = ("log_uniform", "q_log_uniform")


def import_sweep(sweep: Path, *, out: Path) -> tuple[Problem, ...]:
    """Translate a W&B sweep file to a valid space file without images; return what was not imported.

    Args:
        sweep: The sweep file.
        out: The space file to create.

    Raises:
        ConfigError: The sweep cannot be read, is not valid YAML, or has no parameters; or `out` exists.
    """
    require_new(out)
    given = read_document(sweep, start="method: bayes")
    if not isinstance(given.get(ROOT), dict):
        raise ConfigError(Problem("not a W&B sweep: it has no parameters", sweep, "give a sweep file"))
    left_out, entries = Problems(given), dict[KeyPath, tuple[Json, KeyPath]]()

    def drop(source: KeyPath, why: str) -> None:
        left_out.add(source, why if why.startswith(f"{_name(source)}:") else f"{_name(source)}: {why}")

    for key, value, source in (*_settings(given, drop), *_parameters(given, ROOT, drop)):
        if key in entries:
            drop(source, f"{key[-1]} is already set by {_name(entries[key][1])}")
        entries.setdefault(key, (value, source))
    while found := read_space(space := _space(given, entries))[1].found:
        key, problem = found[0]
        other = ("objective",) if ("objective",) in entries else [*entries][-1]  # for a problem with a default
        faulty = next((entry for entry in entries if entry == key[: len(entry)]), other)
        drop(entries.pop(faulty)[1], problem.what)
    problems = tuple(problem for _, problem in left_out.found)
    lines = [f"  {str(problem.where).rpartition('/')[2]}: {problem.what}" for problem in problems]
    header = ["A W&B sweep. Set data.path; to search mixes, add source and synthetic_ratio.", "Not imported:"]
    write_text(out, write_yaml(space.content, "\n".join([*header, *(lines or ["  nothing"])])))
    return problems


def _space(sweep: Document, entries: dict[KeyPath, tuple[Json, KeyPath]]) -> Document:
    """Return the space file, whose keys point to their places in the sweep file; parameters are last."""
    start: Json = {"name": "sweep", "data": {"path": "chest_xray"}, "scheduler": {"name": "none"}}
    space = Document(content=start, places={(): sweep.places[()]})
    for path, (value, source) in sorted(entries.items(), key=lambda entry: entry[0][:1] == ROOT):
        space = space.with_value(path, value, sweep.place(source))
    return space


def _settings(sweep: Document, drop: _Drop) -> Iterator[tuple[KeyPath, Json, KeyPath]]:
    """Yield keys of the space file with their values, and the keys of the sweep that they come from."""
    for key, value in sweep.mapping().items():
        if key in _SETTINGS:
            ours = SAMPLERS.get(str(value), value) if key == "method" else value
            yield tuple(_SETTINGS[key].split(".")), ours, (key,)
        elif key == "metric" and isinstance(value, dict):
            score = re.sub(r"^(val|valid|validation|eval)[_/.-]", "", str(value.get("name")).lower())
            metric = f"val_{_SCORES.get(score, score)}"
            rest = {name: value[name] for name in value if name != "name"}
            yield ("objective",), {"metric": metric if metric in METRICS else value.get("name"), **rest}, (key,)
            if metric == "val_dice":
                yield ("task",), "segmentation", (key,)
        elif key == "early_terminate" and isinstance(value, dict) and value.get("type") == "hyperband":
            yield ("scheduler",), scheduler_of(value), (key,)
            for name in value.keys() - {"type", "eta", "min_iter", *(() if "min_iter" in value else ("max_iter", "s"))}:
                drop((key, name), "ASHA has no such setting")
        elif (key,) != ROOT:
            drop((key,), NO_COUNTERPART.get(key, "no counterpart"))


def _parameters(sweep: Document, path: KeyPath, drop: _Drop) -> Iterator[tuple[KeyPath, Json, KeyPath]]:
    """Rename parameters, also nested ones, by their full dotted name or else by its last part."""
    fields = parameter_fields()
    for key, spec in sweep.mapping(path).items():
        here, full = (*path, key), _name((*path, key))
        last = full.rpartition(".")[2].lower().replace("-", "_")
        ours = next((name for name in (full, last) if name in fields), OUR_NAMES.get(last, ""))
        if isinstance(spec, dict) and "parameters" in spec:
            yield from _parameters(sweep, (*here, "parameters"), drop)
        elif not ours:
            drop(here, "unknown parameter")
        elif ours in fields:
            yield (*ROOT, ours), _spec(here, spec, fields[ours], drop) if isinstance(spec, dict) else spec, here
        else:
            value = spec.get("value", spec.get("values", spec)) if isinstance(spec, dict) else spec
            yield tuple(ours.split(".")), value, here


def _spec(path: KeyPath, given: dict[str, Json], field: ParameterField, drop: _Drop) -> Json:
    """Return a domain as in a space file; unsupported parts stay as they are, for the check to report."""
    spec = dict(given)
    if bounds := [given[key] for key in ("min", "max") if key in given]:
        spec.setdefault("distribution", "int_uniform" if all(isinstance(one, int) for one in bounds) else "uniform")
    name = spec.get("distribution")
    if name == "q_uniform":
        spec.setdefault("q", 1)
    if name in _EXPONENTS:
        numbers = {key: bound for key in ("min", "max") if isinstance(bound := spec.get(key), float | int)}
        spec |= {key: float(f"{math.exp(min(bound, 700)):.6g}") for key, bound in numbers.items()}
    if name in (*_EXPONENTS, "q_log_uniform_values"):
        spec["distribution"] = "log_uniform_values"
        if "q" in spec:
            drop((*path, "q"), f"a logarithmic range cannot have steps of {spec.pop('q')}")
    if "probabilities" in spec:
        drop((*path, "probabilities"), "every value is equally likely")
        spec = {"values": spec.get("values")}
    for key, items in (("value", [spec.get("value")]), ("values", spec.get("values"))):
        if key in spec and isinstance(items, list) and (valid := [*_valid(path, items, field, drop)]):
            spec[key] = valid[0] if key == "value" else list(dict.fromkeys(valid))
    return spec


def _valid(path: KeyPath, items: list[Json], field: ParameterField, drop: _Drop) -> Iterator[Json]:
    """Yield the valid values. Accept other spellings of choices: `torch.optim.Adam`, `ResNet-50`."""
    choices = {_NO_LETTERS.sub("", str(choice)): choice for choice in field.choices}
    for item in items:
        try:
            yield field.read(choices.get(_NO_LETTERS.sub("", item.lower()), item) if isinstance(item, str) else item)
        except ValueError as error:
            drop(path, error.args[0])


def _name(path: KeyPath) -> str:
    return dotted(tuple(key for key in path if key != "parameters"))
