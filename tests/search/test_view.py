"""What `status` and the live table show, read from the folder alone."""

from tests.search.studies import direct, ended, epoch
from xraytune.search.progress import ProgressFile
from xraytune.search.study import StudyFolder, locked
from xraytune.search.view import StudyWatcher


def test_a_look_shows_each_trial_as_it_stands(study: StudyFolder) -> None:
    director = direct(study)
    watcher = StudyWatcher(study)
    for _ in range(4):
        director.next()
    director.hear(0, epoch(1, 0.9))
    director.hear(0, ended(0.9, epochs=1))
    director.hear(1, epoch(1, 0.5))
    director.hear(2, {"failed": "weights are missing", "cause": "settings"})
    ProgressFile(study.trial_path(3))("GAN", 100, 200)

    with locked(study):
        view = watcher.look()

    assert [trial.status for trial in view.trials] == ["complete", "pruned", "failed", "running"]
    assert view.trials[0].values == (0.9,)
    assert view.trials[0].val_b_auroc == 0.89
    assert view.trials[2].reason == "weights are missing"
    assert view.trials[3].busy_with == "GAN 100/200"
    assert view.best is not None
    assert (view.best.number, view.count("pruned"), view.is_running) == (0, 1, True)


def test_looking_writes_nothing(study: StudyFolder) -> None:
    """A reader beside a running search must not touch its journal."""
    director = direct(study)
    director.next()
    before = {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}

    StudyWatcher(study).look()

    after = {path: path.read_bytes() for path in study.path.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.name != ".lock"} == before


def test_a_stopped_search_shows_its_unfinished_trials(study: StudyFolder) -> None:
    director = direct(study)
    director.next()

    (trial,) = StudyWatcher(study).look().trials

    assert trial.status == "unfinished"


def test_the_time_left_goes_by_the_pace_so_far(study: StudyFolder) -> None:
    """GANs that were trained on the way are part of the pace."""
    director = direct(study, "budget.trials=6")
    for number in range(2):
        director.next()
        director.hear(number, ended(0.9))
    (study.path / "wall.json").write_text('{"version": 1, "seconds": 100.0}', encoding="utf-8")

    with locked(study):
        view = StudyWatcher(study).look()

    assert view.seconds >= 100
    assert view.seconds_left == view.seconds / 2 * 4
