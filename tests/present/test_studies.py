"""The list of studies that `status` shows without a study."""

from pathlib import Path

from tests.confirm.verdicts import write_verdict
from tests.in_process import command, said
from tests.study.studies import CPU, direct, run_trial, two_images, write_space
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.start import create_study


def test_status_without_a_study_lists_all_of_the_studies_folder(here: Path) -> None:
    names = ("altered", "confirmed", "damaged", "garbled", "searched")
    folders = {name: StudyFolder(here / "studies" / name) for name in names}
    overrides = ("scheduler.name=none", "budget.trials=1", "source=duplicate")
    space = write_space(here, *overrides)
    for folder in folders.values():
        create_study(folder, space, two_images(), CPU)
    for name, value in (("confirmed", 0.75), ("garbled", 0.75), ("searched", 0.5)):
        loop = direct(folders[name], *overrides)
        run_trial(loop, 0, value)
    write_verdict(folders["confirmed"].path, {0: "no_better"})
    (folders["altered"].path / "extensions").mkdir()
    (folders["altered"].path / "extensions/record.json").write_text("{}")
    folders["damaged"].journal_path.write_bytes(b"no journal")
    write_verdict(folders["garbled"].path, {0: "no_better"})
    checksums = folders["garbled"].path / "confirm" / "sha256.jsonl"
    checksums.write_bytes(b"{" + checksums.read_bytes())

    with locked(folders["searched"]):
        listed = {study["name"]: study for study in said("status")["studies"]}
        shown = command("status").stdout
        compared = command("status", *(folders[name].path for name in ("confirmed", "searched")))
    confirmed = command("status", "studies/confirmed").stdout

    assert {name: study["state"] for name, study in listed.items()} == {
        "altered": "damaged",
        "confirmed": "finished",
        "damaged": "damaged",
        "garbled": "damaged",
        "searched": "searching",
    }
    assert [listed[name]["best"] for name in names] == [None, 0.75, None, None, 0.5]
    assert [listed[name]["verdict"] for name in names] == [None, "no_better", None, None, None]
    assert "1 of 1" in shown
    lines = {line.split()[0]: line for line in compared.stdout.splitlines() if line.strip()}
    assert lines["state"].split()[1:] == ["finished", "searching"]
    assert lines["verdict"].split()[1:] == ["no_better"]
    assert "val-A 0.750 (#0)" in compared.stdout
    assert "val-A 0.500 (#0)" in compared.stdout
    assert [arm["arm"] for arm in listed["searched"]["arms"]] == ["duplicate"]
    assert "do not improve AUROC" in confirmed
    assert "next: xraytune report studies/confirmed" in confirmed
    assert "xraytune confirm" not in confirmed
