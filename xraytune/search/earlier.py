"""The best trials of an earlier study, which a search evaluates first where its space contains them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xraytune.base.errors import counted
from xraytune.space.fields import flat_values, parameters_from
from xraytune.space.space import Space
from xraytune.study.status import status

_MOST = 10


def with_trials_of(study: Path, space: Space) -> tuple[Space, list[str]]:
    """Return the space with the best trials of a study after its own `points_to_evaluate`, and notes on what was taken.

    Raises StudyError if there is no such study, or it is damaged.
    """
    points, taken, left_out = [*space.points_to_evaluate], list[str](), list[str]()
    view = status(study)
    for trial in view.ranked[:_MOST]:
        try:
            point = space.point_of(flat_values(parameters_from(trial.by_name, view.path)))
        except ValueError as error:
            left_out.append(f"left out #{trial.number}, which the space does not contain: {error}")
            continue
        if point not in points:
            points.append(point)
            taken.append(f"#{trial.number}")
    notes = [
        f"from {study}: {counted(len(taken), 'trial')} to evaluate first ({', '.join(taken) or 'none'})",
        *left_out,
    ]
    if (others := len(view.ranked) - _MOST) > 0:
        notes.append(f"left out {counted(others, 'trial')} that are not among the {_MOST} best")
    return replace(space, points_to_evaluate=tuple(points)), notes
