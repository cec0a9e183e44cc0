"""The `verdict.json` of a confirmation that did not take place."""

from pathlib import Path
from typing import Any

from xraytune.base.files import write_json
from xraytune.base.records import to_json
from xraytune.confirm.record import Confirmation, FinalistVerdict, HeldOutSet


def write_verdict(study: Path, words: dict[int, Any], exploratory: tuple[str, ...] = ()) -> None:
    """Write the verdicts on some trials, by number."""
    finalists = tuple(
        FinalistVerdict(
            arm=f"gan #{trial}",
            trial=f"#{trial}",
            generator="GAN",
            mixing="additive",
            score=0.8,
            replicate_scores=(0.8, 0.8),
            headroom=None,
            verdict=word,
            because_of=(),
            comparisons=(),
        )
        for trial, word in words.items()
    )
    record = Confirmation(
        metric="AUROC",
        objective="val_auroc",
        network="classifier",
        exploratory=exploratory,
        rope=0.01,
        replicates=2,
        train_images=1,
        train_patients=1,
        test=HeldOutSet(kind="folder", images=1, patients=1, fingerprint="0" * 32),
        notes=(),
        study=study,
        finalists=finalists,
    )
    write_json(study / "confirm" / "verdict.json", to_json(record), is_recorded=True)
