"""The race of the leaders: paired rounds, who leaves, interruptions, and what is exported and confirmed."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.search.studies import CPU, direct, ended, two_images, write_space
from xraytune.config.settings import DataSettings, Parameters, Settings
from xraytune.confirm.plan import Arm, replicate
from xraytune.confirm.training import opened
from xraytune.errors import ConfigError, StudyError, TrialError
from xraytune.export.best import export
from xraytune.files import read_json, write_bytes, write_json
from xraytune.search.journal import Journal
from xraytune.search.messages import NO_CALLBACKS, TrialSuggestion
from xraytune.search.race import Race, hold_race, race_of, read_race, repeat, repeat_number
from xraytune.search.run_list import RunList, ended_rows
from xraytune.search.status import seconds_left, status
from xraytune.search.study import StudyFolder, create_study
from xraytune.search.trial_queue import Times

SETTINGS = Settings(name="small", seed=5, data=DataSettings(path=Path("xrays")))
SEARCH = "budget.trials=8", "scheduler.name=none", "sampler.name=random", "budget.repeats=5"

Score = Callable[[int, int], float]
"""From a trial and a round to the val-B score of its repeat."""


def rows_of(scores: Mapping[int, Sequence[float | None]]) -> dict[int, dict[str, Any]]:
    """The rows of repeats by trial and round; None is a repeat that failed."""
    return {
        repeat_number(trial, place): {"seconds": 2.0, "val_b_score": score}
        | ({"status": "complete"} if score is not None else {"status": "failed", "reason": "the loss is nan"})
        for trial, of_trial in scores.items()
        for place, score in enumerate(of_trial)
    }


def left(race: Race) -> dict[int, int]:
    """The leaders that left, with their rounds."""
    return {one.number: len(one.scores) for one in race.leaders if not one.is_racing}


def test_a_leader_that_trails_in_every_round_leaves_after_the_third() -> None:
    """Scores differ more between rounds than between leaders: only paired differences tell them apart."""
    rounds = [0.90, 0.96, 0.93]
    scores = {7: [*rounds], 3: [one - 0.004 for one in rounds], 5: [0.94, 0.93, 0.91]}
    scores[3][1] -= 0.0001

    race = race_of([3, 5, 7], 5, rows_of(scores))

    assert left(race) == {3: 3}
    assert [one.number for one in race.leaders] == [7, 5, 3]
    assert race.missing == ((7, 3), (5, 3)), "the others run the fourth round"
    assert race.left == 4


def test_with_more_leaders_the_same_lead_proves_less() -> None:
    """Among more leaders, one trails by chance sooner: Holm's correction."""
    trailing = [0.8990, 0.9570, 0.9285]  # p = .046 against the first
    first = [0.90, 0.96, 0.93]

    assert left(race_of([0, 1], 5, rows_of({0: first, 1: trailing}))) == {1: 3}
    level = {number: [one - 0.001 * (-1) ** place for place, one in enumerate(first)] for number in (2, 3)}
    assert left(race_of([0, 1, 2, 3], 5, rows_of({0: first, 1: trailing, **level}))) == {}


def test_before_the_third_round_nothing_is_decided() -> None:
    race = race_of([0, 1], 5, rows_of({0: [0.9, 0.9], 1: [0.1, 0.1]}))

    assert (race.order, left(race), race.rounds) == ((), {}, 2)
    assert race.missing == ((0, 2), (1, 2))


def test_the_first_rounds_are_trained_together() -> None:
    assert len(race_of([4, 6], 5, {}).missing) == 2 * 3


def test_a_race_ends_when_one_leader_remains() -> None:
    race = race_of([0, 1], 9, rows_of({0: [0.9, 0.91, 0.9], 1: [0.8, 0.81, 0.8]}))

    assert (race.order, race.missing, race.left) == ((0, 1), (), 0)
    assert race.summary.startswith(
        "race ended after 3 of 9 rounds: #0 has the best mean of 3 repeats, 0.9033, +0.1000 ("
    )


def test_trials_without_randomness_are_compared_too() -> None:
    constant = race_of([0, 1, 2], 3, rows_of({0: [0.9] * 3, 1: [0.8] * 3, 2: [0.9] * 3}))

    assert left(constant) == {1: 3}
    assert constant.order == (0, 2, 1)


def test_a_leader_whose_repeat_fails_leaves_the_race() -> None:
    race = race_of([0, 1, 2], 3, rows_of({0: [0.9, None], 1: [0.8, 0.8, 0.8], 2: [0.8, 0.7, 0.8]}))

    assert race.order == (1, 2, 0)
    assert [*race.table()][-1][-1] == "a repeat failed: the loss is nan"


def test_leaders_share_the_seeds_of_a_round_with_no_other_training() -> None:
    """Shared streams make differences paired; seeds of their own make them independent of search and confirmation."""
    gan = Parameters.model_validate({"source": "gan", "gan": {"steps": 100}})
    other = Parameters.model_validate({"source": "gan", "gan": {"steps": 200}})
    arm = Arm(name="gan", role="finalist", trial="#0", parameters=gan)

    first, second, later = repeat(SETTINGS, gan, 0), repeat(SETTINGS, other, 0), repeat(SETTINGS, gan, 1)

    def seeds(experiment: Any) -> tuple[int, int]:
        return experiment.settings.seed, experiment.parameters.gan.seed

    assert seeds(first) == seeds(second)
    assert first.parameters == gan.with_generator(seed=seeds(first)[1])
    confirmed = [seeds(replicate(arm, SETTINGS, one, one)) for one in (0, 1)]
    everyone = [seeds(first), seeds(later), (SETTINGS.seed, 0), *confirmed]
    for one in zip(*everyone, strict=True):
        assert len(set(one)) == len(everyone)


class KilledError(Exception):
    """The search is killed."""


def searched(study: StudyFolder, val_b: Callable[[int], float], *overrides: str) -> None:
    """Search with trials that end with these scores on val-B."""
    controller = direct(study, *SEARCH, *overrides)
    while isinstance(suggestion := controller.next_trial(), TrialSuggestion):
        message = ended(0.9)
        message["ended"]["val_b_score"] = val_b(suggestion.number)
        controller.on_result(suggestion.number, message)
    controller.close()


def raced(
    study: StudyFolder,
    score: Score,
    *overrides: str,
    most: int = 1000,
    result: Callable[[int, float], Mapping[str, Any]] | None = None,
) -> Race:
    """Hold the race through the search's controller; killed after so many repeats."""
    controller = direct(study, *SEARCH, *overrides)
    left_to_run = most

    def run(repeats: RunList) -> None:
        nonlocal left_to_run
        assert repeats.folder.path == study.path / "race"
        while isinstance(suggestion := repeats.next_trial(), TrialSuggestion):
            if not left_to_run:
                raise KilledError
            left_to_run -= 1
            assert repeats.label(suggestion).startswith("#")
            trial, place = divmod(suggestion.number, 100)
            message = ended(0.9)
            message["ended"]["val_b_score"] = score(trial, place)
            repeats.on_result(suggestion.number, result(suggestion.number, score(trial, place)) if result else message)

    hold_race(controller, two_images(), run=run)
    controller.close()
    race = read_race(study, controller.space.settings, controller.journal.rows())
    assert race is not None
    return race


def noisy(seed: int, *purpose: int, spread: float) -> float:
    return random.Random(repr((seed, *purpose))).gauss(0.0, spread)


def quality(trial: int) -> float:
    """Of eight trials, one is better by .004 than the next; a repeat varies by .006 with its stream, by .003 on its own."""
    return 0.960 + (0.004 if trial == 5 else -0.0005 * trial)


def searched_score(seed: int) -> Callable[[int], float]:
    return lambda trial: quality(trial) + noisy(seed, trial, spread=0.0067)


def repeated_score(seed: int) -> Score:
    return lambda trial, place: (
        quality(trial) + noisy(seed, -1, place, spread=0.006) + noisy(seed, trial, place, spread=0.003)
    )


@pytest.mark.slow
def test_the_race_finds_the_best_trial_more_often_than_the_maximum(tmp_path: Path) -> None:
    by_maximum, by_race, seeds = 0, 0, range(12)
    for seed in seeds:
        study = StudyFolder(tmp_path / f"{seed}" / "studies" / "small")
        study.path.parent.mkdir(parents=True)
        create_study(study, write_space(tmp_path / f"{seed}", *SEARCH), two_images(), CPU)
        searched(study, searched_score(seed))
        by_maximum += max(range(8), key=searched_score(seed)) == 5
        by_race += raced(study, repeated_score(seed)).order[0] == 5

    assert by_race > by_maximum + 3, "make bench ONLY=race has the shares"


@pytest.mark.parametrize("most", [0, 1, 5, 12, 13, 15])
def test_a_killed_race_resumes_to_the_same_end(study: StudyFolder, most: int) -> None:
    searched(study, quality)
    with pytest.raises(KilledError):
        raced(study, repeated_score(1), most=most)
    ended_before = len(ended_rows(StudyFolder(study.path / "race")))

    race = raced(study, repeated_score(1))

    assert ended_before == most
    leaders = [5, 0, 1, 2]
    every = rows_of({trial: [repeated_score(1)(trial, place) for place in range(5)] for trial in leaders})
    assert [(one.number, one.scores) for one in race.leaders] == [
        (one.number, one.scores) for one in race_of(leaders, 5, every).leaders
    ]
    assert raced(study, repeated_score(2), most=0) == race, "an ended race trains nothing"


def test_a_race_changes_no_trial_of_a_continued_search(study: StudyFolder, tmp_path: Path) -> None:
    """Repeats are no trials: the sampler, ASHA's rungs and budget.trials do not see them."""
    searched(study, quality)
    raced(study, repeated_score(1))
    searched(study, quality, "budget.trials=10")
    again = read_rows(study)

    other = StudyFolder(tmp_path / "other" / "studies" / "small")
    other.path.parent.mkdir(parents=True)
    create_study(other, write_space(tmp_path / "other"), two_images(), CPU)
    searched(other, quality, "budget.trials=10", "budget.repeats=0")

    assert again == read_rows(other)


def read_rows(study: StudyFolder) -> list[Any]:
    return [(row["number"], row["parameters"], row["status"]) for row in study.rows()]


def test_trials_with_the_same_settings_are_one_leader(study: StudyFolder) -> None:
    """Of three settings among eight trials, the best trial of each is a leader."""
    same = "lr=1e-3", "synthetic_ratio=0.5", "gan.steps=100"
    searched(study, lambda trial: 0.9 + 0.01 * trial, *same)
    sources = [row["parameters"]["source"] for row in study.rows()]

    race = raced(study, lambda trial, _: 0.9 + 0.001 * trial, *same)

    assert set(race.order) == {len(sources) - 1 - sources[::-1].index(source) for source in {*sources}}


def test_better_trials_of_a_continued_search_have_to_race_first(study: StudyFolder) -> None:
    """The leaders change; what they have run already is used again."""
    searched(study, quality)
    assert raced(study, repeated_score(1)).order[0] == 5
    searched(study, lambda trial: 0.99 if trial == 9 else quality(trial), "budget.trials=10")
    with pytest.raises(KilledError):
        raced(study, repeated_score(1), "budget.trials=10", most=0)

    race = raced(study, lambda *_: 0.9, "budget.trials=10")

    assert {one.number for one in race.leaders} == {9, 5, 0, 1}
    assert len(race.leaders[-1].scores) >= 3


def test_used_up_hours_stop_a_race_and_more_hours_continue_it(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    searched(study, quality)

    def after_a_minute(_: int, score: float) -> Mapping[str, Any]:
        nonlocal now
        now += 60
        message = ended(0.9)
        message["ended"]["val_b_score"] = score
        return message

    stopped = raced(study, repeated_score(1), "budget.hours=0.1", result=after_a_minute)
    assert stopped.ended == 6
    assert stopped.missing

    done = raced(study, repeated_score(1), "budget.hours=9", result=after_a_minute)
    assert not done.missing
    assert done.seconds == 60.0 * done.ended, "a repeat that had begun is not trained twice"


def test_gpu_hours_of_repeats_count_after_a_restart(study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    searched(study, quality)
    controller = direct(study, *SEARCH)

    def run(repeats: RunList) -> None:
        nonlocal now
        suggestion = repeats.next_trial()
        assert isinstance(suggestion, TrialSuggestion)
        repeats.on_trial_placed(suggestion.number, 1.0)
        now += 90
        repeats.on_result(suggestion.number, ended(0.9))
        controller.clock.save()
        raise KilledError

    with pytest.raises(KilledError):
        hold_race(controller, two_images(), run=run)

    assert direct(study, *SEARCH, "budget.gpu_hours=0.024").used_up == "gpu_hours"  # 86.4 s
    assert direct(study, *SEARCH, "budget.gpu_hours=0.026").has_time()


def test_three_repeats_that_fail_alike_stop_the_race_and_are_trained_again(study: StudyFolder) -> None:
    searched(study, quality)
    failure = {"failed": "FileNotFoundError: pixels.npy", "cause": "settings"}
    with pytest.raises(TrialError, match="first 3 trials all failed"):
        raced(study, repeated_score(1), result=lambda *_: failure)

    assert {len(one.scores) for one in raced(study, repeated_score(1)).leaders} <= {3, 4, 5}
    assert not [row for row in ended_rows(StudyFolder(study.path / "race")).values() if row["status"] == "failed"]


def test_the_winner_of_the_race_is_shown_exported_and_confirmed_first(study: StudyFolder, tmp_path: Path) -> None:
    """The trial with the best score of the search is among the worst in the race; a trial outside stays behind all."""
    searched(study, lambda trial: 0.90 + 0.01 * trial)
    raced(study, lambda trial, place: 0.90 - 0.01 * trial + 0.001 * ((trial * place) % 3))
    space = write_space(tmp_path, *SEARCH)
    write_bytes(study.space_path, space.to_yaml(study.path).encode())

    view = status(study.path)
    exported = export(study.path, out=tmp_path / "best.yaml")
    raced_gans = [one for one in (4, 5, 6, 7) if view.trials[one].parameters["source"] == "gan"]
    other_gans = [one for one in (3, 2, 1, 0) if view.trials[one].parameters["source"] == "gan"]
    (tmp_path / "xrays").mkdir()
    with opened(
        study.path, "confirm", data=None, weights_dir=None, cache=None, address=None, callbacks=NO_CALLBACKS
    ) as training:
        finalists = [int(one.name[1:]) for one in training.candidates(9)]

    assert view.race is not None
    assert view.race.order == (4, 5, 6, 7)
    assert view.for_export is not None
    assert (view.for_export.number, exported.trial) == (4, 4)
    assert "Race ended after" in (tmp_path / "best.yaml").read_text(encoding="utf-8")
    assert raced_gans, "the test compares nothing"
    assert finalists == [*raced_gans, *other_gans]
    assert status(study.path).trials[7].val_b_score == pytest.approx(0.97), "trials keep their scores"


def test_the_time_left_includes_the_repeats(study: StudyFolder) -> None:
    searched(study, quality)
    space = write_space(study.path.parent.parent, *SEARCH)
    rows = Journal(study.journal_path, space, writable=False).rows()
    race = read_race(study, space.settings, rows)
    view = status(study.path)
    trials = [replace(trial, seconds=10.0) for trial in view.trials]

    assert seconds_left(trials, 8, Times(seconds=80.0), race) == pytest.approx(4 * 5 * 10.0)


@pytest.mark.parametrize(("complete", "leaders"), [(1, 0), (3, 3), (8, 4)])
def test_a_race_has_as_many_leaders_as_there_are_complete_trials(
    study: StudyFolder, complete: int, leaders: int
) -> None:
    searched(study, quality, f"budget.trials={complete}")
    space = write_space(study.path.parent.parent, *SEARCH)

    race = read_race(study, space.settings, Journal(study.journal_path, space, writable=False).rows())

    assert (len(race.leaders) if race else 0) == leaders


@pytest.mark.parametrize(
    ("override", "what"),
    [
        (["budget.repeats=2"], "budget.repeats: 2 is too few to compare leaders"),
        (["budget.leaders=1"], "budget.leaders"),
        (
            ["objective.metric=gan_kid", "quality.backbone=mobilenet_v2", "budget.repeats=3"],
            "budget.repeats does not apply",
        ),
    ],
)
def test_races_that_cannot_be_held_are_refused(tmp_path: Path, override: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        write_space(tmp_path, *override)


def test_a_damaged_list_of_repeats_is_reported(study: StudyFolder) -> None:
    searched(study, quality)
    raced(study, repeated_score(1))
    write_bytes(study.path / "race" / "runs.jsonl", b'{"version": 1, "number": 500, "status": "complete"}\n')

    with pytest.raises(StudyError, match=r"race/runs\.jsonl"):
        raced(study, repeated_score(1))


def test_repeats_under_another_torch_are_refused(study: StudyFolder) -> None:
    searched(study, quality)
    with pytest.raises(KilledError):
        raced(study, repeated_score(1), most=2)
    file = study.path / "race" / "environment.json"
    content = read_json(file)
    content["packages"]["torch"] = "1.0.0"
    write_json(file, content)

    with pytest.raises(StudyError, match=r"trained with torch 1\.0\.0"):
        raced(study, repeated_score(1))
