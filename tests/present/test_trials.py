"""The live view of a search, and that of `status`."""

from dataclasses import replace
from datetime import timedelta

from tests.study.studies import ENDED, trial, two_images, view_of
from xraytune.base.tables import Frame, Table, text_of
from xraytune.data.sides import side_sizes
from xraytune.present.charts import plot_parameter
from xraytune.present.trials import live_frame, sides_frame, status_frame
from xraytune.space.parameters import Parameters
from xraytune.space.source_settings import GanSettings


def lines_of(frame: Frame) -> list[str]:
    return [text_of(part) for part in frame if not isinstance(part, Table)]


def rows_of(frame: Frame, table: int = -1) -> list[list[str]]:
    """Return the text of the cells that one of the tables shows."""
    found = [part for part in frame if isinstance(part, Table)][table]
    return [[text_of(row[name]) for name in found.columns] for row in found.rows]


def test_frame_orders_running_best_and_ended_trials() -> None:
    view = view_of(
        trial(0, "complete", 0.7, 0.8, val_b_score=0.75),
        trial(1, "complete", 0.7, 0.9, val_b_score=0.85),
        trial(2, "pruned", 0.5),
        trial(3, "running", busy_with="training the GAN: 300 of 600 steps"),
        *(trial(number, "waiting") for number in range(4, 7)),
    )

    frame = live_frame(view)

    assert "running, 0:31 used, about 0:31 left" in lines_of(frame)
    assert "+3 waiting" in lines_of(frame)
    assert not any("more trial" in line for line in lines_of(frame))
    rows = rows_of(frame)
    assert [row[:2] for row in rows] == [["now", "3"], ["best", "1"], ["", "0"], ["ended", "2"]]
    assert rows[0][-1] == "training the GAN: 300 of 600 steps"
    assert rows[1] == ["best", "1", "gan r=1", "2/4", "0.900", "0.850", "0.0001", "complete 0:07"]


def test_the_best_trial_of_each_arm_is_shown() -> None:
    gan = Parameters(source="gan", gan=GanSettings(), synthetic_ratio=1.0)
    view = view_of(
        *(trial(number, "complete", 0.9) for number in range(7)),
        trial(7, "complete", 0.5, parameters=gan),
        trial(8, "complete", 0.6, parameters=gan),
    )

    rows = rows_of(live_frame(view))

    assert [row[1] for row in rows][:6] == ["0", "1", "2", "3", "4", "8"]


def test_the_last_trials_to_end_are_shown_and_not_those_with_the_highest_numbers() -> None:
    minutes = [6, 5, 0, 4, 1, 3, 2]
    view = view_of(
        *(
            trial(number, "pruned", 0.5, ended_at=ENDED + timedelta(minutes=minute))
            for number, minute in enumerate(minutes)
        )
    )

    rows = rows_of(live_frame(view))

    assert [row[1] for row in rows] == ["0", "1", "3", "5", "6"]


def test_the_sides_of_a_segmentation_study_have_no_classes_and_no_auroc() -> None:
    frame = sides_frame(side_sizes(replace(two_images(), class_names=("image",))))

    assert rows_of(frame) == [[name, "1", "1"] for name in ("train", "val-A", "val-B")]


def test_a_failed_trial_is_shown_with_its_reason_and_without_trials_there_is_no_table() -> None:
    lines = lines_of(
        status_frame(view_of(trial(4, "failed", reason="the loss is not finite\nmore")))
    )

    assert "#4 failed: the loss is not finite" in lines
    assert not any(isinstance(part, Table) for part in status_frame(view_of()))


def test_the_arms_are_compared_by_their_complete_trials() -> None:
    """A trial of an arm that was pruned has a score, but after fewer epochs."""
    gan = Parameters(source="gan", gan=GanSettings())
    view = view_of(
        trial(0, "complete", 0.7, 0.8, val_b_score=0.75),
        trial(1, "complete", 0.7, 0.9, val_b_score=0.70),
        trial(2, "pruned", 0.95, parameters=gan),
        trial(3, "complete", 0.7, 0.75, val_b_score=0.78, parameters=gan),
    )

    assert rows_of(status_frame(view), table=0) == [
        ["real_only", "2", "2", "#1 0.900", "#0 0.750", "", ""],
        ["gan", "2", "1", "#3 0.750", "#3 0.780", "+0.0300", "1 pruned"],
    ]


def test_a_chart_of_a_parameter_shows_complete_trials_alone() -> None:
    """The others have trained for fewer epochs."""
    view = view_of(
        trial(0, "complete", 0.7, 0.8), trial(1, "pruned", 0.95), trial(2, "running", 0.6)
    )

    (trace,) = plot_parameter("lr", view).data

    assert ([*trace.hovertext], [*trace.y]) == (["#0 gan r=0"], [0.8])
