"""The log of a search."""

import pytest

from xraytune.cli.search import follow_search
from xraytune.space.settings import Parameters
from xraytune.study.row import TrialRow
from xraytune.study.trial import Trial


def test_a_log_has_a_line_for_each_start_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    parameters = Parameters.model_validate({"source": "duplicate", "synthetic_ratio": 0.5})

    with follow_search() as callbacks:
        callbacks.on_progress("reading images", 1, 2)
        callbacks.on_progress("reading images", 2, 2)
        callbacks.on_trial_start(Trial(number=3, parameters=parameters))
        pruned = TrialRow(
            number=3, status="pruned", parameters=parameters, epochs=2, seconds=61.2, value=0.75
        )
        callbacks.on_trial_end(pruned)
        reason = "the loss is not finite\nat step 3"
        callbacks.on_trial_end(
            TrialRow(number=4, status="failed", parameters=parameters, reason=reason)
        )

    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split("  ", 1)[1] for line in captured.err.splitlines()] == [
        "reading images: 2 of 2",
        "#3 started: duplicate r=0.5",
        "#3 pruned after 2 epochs, 1:01: val-A 0.750",
        "#4 failed: the loss is not finite",
    ]
