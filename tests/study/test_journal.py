"""The journal: every trial, each value in its order of arrival, and each end exactly once."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import optuna
import pytest

from tests.examples.conftest import on_path, write_metadata
from tests.study.studies import CPU, space_of, two_images, write_space
from xraytune.base.errors import ConfigError, StudyError
from xraytune.confirm.run import confirm
from xraytune.present.page import write_report
from xraytune.space.search_settings import SamplerSettings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal, create_journal
from xraytune.study.row import append_trial, write_trials
from xraytune.study.samplers import require_sampler
from xraytune.study.start import create_study
from xraytune.study.status import status

_POINT = "points_to_evaluate=[{source: none, lr: 1e-3}]"


def journal_of(study: StudyFolder, space: Space) -> Journal:
    return Journal(study.journal_path, space, is_writable=True)


def open_journal(study: StudyFolder, *overrides: str) -> Journal:
    return journal_of(study, space_of(study, *overrides))


SAMPLERS = (
    "sampler={name: tpe, startup_trials: 2, options: {n_ei_candidates: 10}}",
    "sampler={name: random}",
    "sampler={name: GPSampler, startup_trials: 3, options: {deterministic_objective: true}}",
    "sampler={name: NSGAIISampler, options: {population_size: 3}}",
    "sampler={name: QMCSampler, seed: 3, options: {scramble: true}}",
    "sampler={name: near_best, options: {width: 0.3}}",
)
OF_SOMEBODY = """\
import random
from optuna.samplers import BaseSampler, RandomSampler

class NearBest(RandomSampler):
    def __init__(self, width=0.1, seed=None):
        super().__init__(seed)
        self.random = random.Random(seed)
        self.width = width

    def sample_independent(self, study, trial, name, distribution):
        value = super().sample_independent(study, trial, name, distribution)
        best = max(study.get_trials(deepcopy=False), key=lambda each: each.value or 0)
        return best.params.get(name, value) if self.random.random() < self.width else value

class Restless(NearBest):
    def __init__(self, seed=None):
        super().__init__()

class Unseeded(NearBest):
    def __init__(self):
        super().__init__()
"""


@pytest.fixture
def of_somebody(tmp_path: Path) -> Iterator[None]:
    """Install a package with samplers."""
    site = tmp_path / "site"
    points = {"near_best": "of_them:NearBest", "restless": "of_them:Restless"}
    points |= {"unseeded": "of_them:Unseeded", "tpe": "of_them:Restless"}
    project = {"name": "them", "version": "1", "entry-points": {"xraytune.samplers": points}}
    write_metadata(site, project)
    (site / "of_them.py").write_text(OF_SOMEBODY)
    with on_path(site):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("of_somebody")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_kill_shifts_the_decisions_of_a_sampler(tmp_path: Path, sampler: str) -> None:
    """Neither between two trials, nor after any line of a trial's suggestion."""
    options = (sampler, "synthetic_ratio={min: 0.5, max: 2.0}", "source=duplicate")
    space = write_space(tmp_path, *options)
    paths = [tmp_path / name for name in ("unbroken.journal", "killed.journal")]
    for path in paths:
        create_journal(path, space, tmp_path)
    unbroken = Journal(paths[0], space, is_writable=True)
    asked = []
    for number in range(9):
        before = paths[1].read_bytes()
        asked.append(unbroken.ask().parameters)
        killed = Journal(paths[1], space, is_writable=True)
        assert killed.ask().parameters == asked[-1]
        lines = paths[1].read_bytes()[len(before) :].splitlines(keepends=True)
        for written in range(1, len(lines)):
            paths[1].write_bytes(before + b"".join(lines[:written]))
            killed = Journal(paths[1], space, is_writable=True)
            (trial,) = killed.resume() or [killed.ask()]
            assert trial.parameters == asked[-1], f"killed after {written} lines"
        (resumed,) = Journal(paths[1], space, is_writable=True).resume()
        assert resumed.parameters == asked[-1]
        for journal in (unbroken, killed):
            journal.report(number, 1, 0.5 + asked[-1].lr)
            journal.tell(number, "complete", 0.5 + asked[-1].lr, {})

    assert len({parameters.lr for parameters in asked}) > 5


@pytest.mark.usefixtures("of_somebody")
def test_a_sampler_has_to_resume_equally_and_to_take_its_options() -> None:
    """Also one of another package."""
    for name, taken in (("near_best", {"width": 0.5}), ("tpe", {"n_ei_candidates": 5})):
        require_sampler(SamplerSettings(name=name, options=taken))
    refused: tuple[tuple[str, dict[str, int], str], ...] = (
        ("restless", {}, "resumed search"),
        ("unseeded", {}, "'seed'"),
        ("near_best", {"populations": 3}, "'populations'"),
        ("NSGAIISampler", {"populations": 3}, "population"),
        ("NSGAIISampler", {"population_size": 1}, "population"),
    )
    for name, options, reason in refused:
        with pytest.raises(ConfigError, match=rf"{name}: .*{reason}"):
            require_sampler(SamplerSettings(name=name, options=options))


def test_a_sampler_that_cannot_resume_or_does_not_apply_is_refused_with_its_reason(
    tmp_path: Path,
) -> None:
    known = {"tpe": "TPESampler", "random": "RandomSampler", "grid": "GridSampler"}
    for name in optuna.samplers.__all__:
        if name.endswith("Sampler") and not name.startswith("Base"):
            with suppress(ConfigError):
                write_space(tmp_path, f"sampler={{name: {name}}}")
                known[name] = name
                continue
            with pytest.raises(ConfigError, match=r"\n +fix: .*(write|give|needs)") as refused:
                write_space(tmp_path, f"sampler={{name: {name}}}")
            assert "did you mean" not in str(refused.value)

    assert {*known} == {"tpe", "random", "grid", "GPSampler", "NSGAIISampler", "QMCSampler"}


@pytest.mark.slow
def test_points_come_first_and_a_restart_does_not_shift_the_draws(
    study: StudyFolder, tmp_path: Path
) -> None:
    """The sampler is seeded by the trial's number, not by how often the search was started."""
    other = tmp_path / "optuna.journal"
    rows = "{source: none, lr: 1e-4}, {source: duplicate, synthetic_ratio: 1.0, lr: 1e-3}"
    points = f"points_to_evaluate=[{rows}]"
    create_journal(other, write_space(tmp_path, points), tmp_path)
    unbroken = Journal(other, write_space(tmp_path, points), is_writable=True)

    drawn = []
    for number in range(6):
        restarted = open_journal(study, points)
        drawn.append(restarted.ask().parameters)
        assert drawn[-1] == unbroken.ask().parameters
        for journal in (restarted, unbroken):
            journal.report(number, 1, 0.5 + number / 20)
            journal.tell(number, "complete", 0.5 + number / 20, {})

    assert [(each.source, each.lr) for each in drawn[:2]] == [("none", 1e-4), ("duplicate", 1e-3)]


def space_of_weights(root: Path) -> Space:
    first, second = (root / name for name in ("w1.safetensors", "w2.safetensors"))
    points = [f"{{source: none, lr: {lr}, weights: {second}}}" for lr in (1e-3, 1e-4)]
    return write_space(
        root,
        f"weights={{values: [none, {first}, {second}]}}",
        f"points_to_evaluate=[{', '.join(points)}]",
        "name=moved",
    )


def test_moved_study_resumes(tmp_path: Path) -> None:
    here = tmp_path / "here"
    there = tmp_path / "there"
    here.mkdir()
    space = space_of_weights(here)
    study = StudyFolder(here / "studies/moved")
    create_study(study, space, two_images(), CPU)
    journal = journal_of(study, space)
    for _ in range(2):
        journal.ask()
    journal.tell(0, "complete", 0.9, {"val_b_score": 0.8})
    write_trials(study, journal.rows())
    assert str(tmp_path) not in study.journal_path.read_text() + study.rows_path.read_text()

    here.rename(there)

    moved = StudyFolder(there / "studies/moved")
    journal = journal_of(moved, space_of_weights(there))
    (resumed,) = journal.resume()
    suggestion = [journal.parameters(0), resumed.parameters]
    assert [parameters.weights for parameters in suggestion] == [str(there / "w2.safetensors")] * 2
    assert journal.ask().parameters.weights in {
        "none",
        *(str(there / f"w{which}.safetensors") for which in (1, 2)),
    }
    assert '"weights":"../../w2.safetensors"' in moved.rows_path.read_text().replace(" ", "")
    view = status(moved.path)
    assert view.trials[0].parameters.weights == str(there / "w2.safetensors")
    assert view.to_json()["trials"][0]["parameters"]["weights"] == "../../w2.safetensors"


@pytest.mark.parametrize("read", [status, confirm, write_report])
def test_a_space_that_was_edited_since_the_search_began_is_refused_with_its_lines(
    study: StudyFolder, read: Callable[[Path], object]
) -> None:
    """With another margin, `confirm` would reach another verdict."""
    text = study.space_path.read_text()
    assert "rope: 0.01" in text
    study.space_path.write_text(text.replace("rope: 0.01", "rope: 0.41"))
    lines = r"- confirm\.rope: 0\.01\n    \+ confirm\.rope: 0\.41\n  fix: restore these lines"

    with pytest.raises(StudyError, match=rf"another space (.*)\n    {lines}") as refused:
        read(study.path)

    assert refused.value.exit_code == 5


def test_options_of_a_sampler_that_had_none_are_refused(study: StudyFolder) -> None:
    open_journal(study).ask()

    with pytest.raises(StudyError, match=r"- sampler\.options: \{\}"):
        open_journal(study, "sampler.options={n_ei_candidates: 100}")


def test_a_line_torn_by_a_crash_is_cut_off(study: StudyFolder) -> None:
    """Optuna would append to it, and the journal would be unreadable for good."""
    open_journal(study).ask()
    with study.journal_path.open("ab") as stream:
        stream.write(b'{"op_code": 4, "wor')

    journal = open_journal(study)
    journal.ask()

    assert len(open_journal(study).trials) == 2


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        (b'"values": [0.9]', b'"values": [0.8]'),
        (b"0.001", b"0.002"),
        (b"0.125", b"0.127"),
    ],
    ids=["the value of a trial", "a parameter", "a reported value"],
)
def test_a_changed_character_is_an_error_that_names_the_line(
    study: StudyFolder, written: bytes, instead: bytes
) -> None:
    """`export` sorts by the scores, ASHA compares the values, `status` adds up the seconds."""
    journal = open_journal(study, _POINT)
    number = journal.ask().number
    journal.report(number, 1, 0.125)
    journal.tell(number, "complete", 0.9, {"val_b_score": 0.8, "seconds": 7.0})
    whole = study.journal_path.read_bytes()
    assert written in whole
    study.journal_path.write_bytes(whole.replace(written, instead))

    with pytest.raises(StudyError, match=r"optuna\.journal:\d+: the journal is damaged"):
        open_journal(study)


def test_the_recorded_journal_is_read(study: StudyFolder) -> None:
    """Do not write `recorded.journal` again after a release, which has to read its own studies."""
    shutil.copy(Path(__file__).with_name("recorded.journal"), study.journal_path)

    journal = open_journal(study, "data.classes=binary")

    rows = [(row.status, row.arm, row.value, row.epochs) for row in journal.rows()]
    assert rows == [("complete", "real_only", 0.75, 2), ("pruned", "gan", 0.4, 1)]
    assert journal.row(0).val_b_score == 0.7
    first, second = (row.ended_at for row in journal.rows())
    assert first
    assert second
    assert first < second
    assert [trial.experiment.parameters.arm for trial in journal.resume()] == ["duplicate"]


def lines_of(study: StudyFolder) -> list[bytes]:
    return study.journal_path.read_bytes().splitlines(keepends=True)


def test_a_missing_or_moved_line_is_an_error_that_names_the_next_one(study: StudyFolder) -> None:
    """A trial, its end, a value, or a changed last line; also no checksums, or another start."""
    space = space_of(study, _POINT)
    journal = journal_of(study, space)
    for value in (0.125, 0.25):
        number = journal.ask().number
        journal.report(number, 1, value)
        journal.tell(number, "complete", value, {"val_b_score": value})
    lines = lines_of(study)
    count = len(lines)
    without_checksums = [re.sub(rb', "crc": \d+', b"", line) for line in lines]
    broken = [(1, without_checksums), (1, [b"not a journal\n", *lines])]
    broken.append((count + 1, [*lines, b"{]\n"]))
    for place in range(count - 1):
        for further in {place + 1, count - 1}:  # one line, or all but the last one
            study.journal_path.write_bytes(b"".join(lines[:place] + lines[further:]))
            with pytest.raises(StudyError, match=rf"optuna\.journal:{place + 1}: .* are missing"):
                journal_of(study, space)
        broken.append((place + 2, [*lines[: place + 1], lines[place], *lines[place + 1 :]]))
    for line_number, changed in broken:
        study.journal_path.write_bytes(b"".join(changed))
        with pytest.raises(StudyError, match=rf"optuna\.journal:{line_number}: ") as refused:
            journal_of(study, space)
        assert refused.value.exit_code == 5

    study.journal_path.write_bytes(b"".join(lines))
    assert len(journal_of(study, space).trials) == 2


def test_a_journal_whose_end_was_cut_off_is_an_error(study: StudyFolder) -> None:
    """No line that is left tells of it, but the trials that had ended do."""
    space = space_of(study, _POINT)
    journal = journal_of(study, space)
    number = journal.ask().number
    before = study.journal_path.read_bytes()
    journal.tell(number, "complete", 0.5, {"val_b_score": 0.5})
    append_trial(study, journal.row(number))
    study.journal_path.write_bytes(before)

    with pytest.raises(StudyError, match=r"cut off: trials\.jsonl has 1 trial more"):
        journal_of(study, space)


def test_lines_that_are_written_at_once_follow_each_other(study: StudyFolder) -> None:
    """A kill may leave some of them, and half of the next one, to which Optuna would append."""
    journal = open_journal(study, _POINT)
    journal.ask()
    before = lines_of(study)
    values = [{"op_code": 8, "worker_id": "any", "trial_id": 0, "user_attr": {"any": 1}}] * 3
    journal._backend.append_logs(values)
    whole = lines_of(study)
    assert len(whole) == len(before) + 3

    for kept in range(4):
        study.journal_path.write_bytes(b"".join(whole[: len(before) + kept]) + b'{"op_code": 8, "w')
        open_journal(study, _POINT).report(0, kept + 1, 0.5)
        assert open_journal(study, _POINT).row(0).epochs == 1


def optunas(study: StudyFolder) -> optuna.storages.JournalStorage:
    """The journal, opened by Optuna."""
    backend = optuna.storages.journal.JournalFileBackend(str(study.journal_path))
    return optuna.storages.JournalStorage(backend)


def test_optuna_itself_reads_the_journal(study: StudyFolder) -> None:
    """So does optuna-dashboard, which may add notes."""
    journal = open_journal(study, _POINT)
    journal.ask()
    journal.tell(
        0, "complete", 0.9, {"value": 0.9, "val_b_score": 0.88, "best_epoch": 3, "seconds": 7.0}
    )

    shown = optuna.load_study(study_name="small", storage=optunas(study))
    shown.set_user_attr("note", "written by a tool of Optuna, without a checksum")

    assert shown.metric_names == ["val_auroc"]
    assert (len(shown.trials), shown.best_trial.value, shown.best_trial.params["lr"]) == (
        1,
        0.9,
        1e-3,
    )
    assert shown.best_trial.user_attrs == {
        "status": "complete",
        "arm": "real_only",
        "val_b_score": 0.88,
        "best_epoch": 3,
        "seconds": 7.0,
        "reason": "",
    }

    journal.ask()
    optunas(study).set_study_system_attr(0, "another", "note")

    assert open_journal(study, _POINT).parameters(0).lr == 1e-3
    assert open_journal(study, _POINT).ask().number == 2
    assert [trial.number for trial in open_journal(study, _POINT).trials] == [0, 1, 2]
    whole = study.journal_path.read_bytes()
    optunas(study).set_trial_user_attr(2, "status", "complete")
    with pytest.raises(StudyError, match=rf"{len(lines_of(study))}: the journal is damaged"):
        open_journal(study, _POINT)
    study.journal_path.write_bytes(whole)
    optunas(study).set_study_user_attr(0, "space", {})
    with pytest.raises(StudyError, match=rf"{len(lines_of(study))}: the journal is damaged"):
        open_journal(study, _POINT)
