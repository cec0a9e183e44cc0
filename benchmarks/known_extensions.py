"""Whether verdicts on extensions (generators of users) are right where the answer is known: phantoms.

- *Real*: real images of other patients. They help, in at least 9 of 10 studies.
- *Noise*: independent grey values, which never help.
- *Copies*: the training images again, which every trial refuses.
- *Scored*: images of the whole data folder, also of the patients who are scored, with the
  declaration that nobody was seen. The verdict is invalid in 10 of 10.

`SEEDS=3` makes fewer studies. About a quarter of an hour on one core.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure, figure
from tests.in_process import confirm_in_process, save_backbone, search_in_process
from xraytune.base.errors import StudyError, TrialError
from xraytune.base.files import write_text
from xraytune.confirm.run import confirm
from xraytune.data.phantom import paint_phantoms
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.load import load_space

_SIZE_PX = 32
_PATIENTS = 600
_SPACE = """\
name: known
data: {{path: xrays, image_size: {size_px}, train_patients: 20, split: {{val_a: 0.1, val_b: 0.1, seed: 7}}}}
parameters:
  source: {{values: [none, {name}]}}
  synthetic_ratio: {{value: 10.0, when: {{source: {name}}}}}
  backbone: {{value: small_cnn}}
  weights: {{value: net.safetensors}}
  trainable: {{value: head}}
  batch_size: {{value: 16}}
  lr: {{value: 1e-2}}
  schedule: {{value: cosine}}
seed: {seed}
budget: {{trials: 2, max_epochs: 6, steps_per_epoch: 25}}
scheduler: {{name: none}}
confirm: {{finalists: 1, replicates: {replicates}, controls: {{matched: [none, duplicate], tuned: []}}}}
points_to_evaluate: [{{source: {name}}}, {{source: none}}]
"""
_CODE = """\
from pathlib import Path
import numpy as np
from PIL import Image

class Known:
    pretrained_on = ()

    def fit(self, images, targets, *, folder, **_):
        np.save(folder / "images.npy", images)
        np.save(folder / "targets.npy", targets)

    def sample(self, targets, *, classes, folder, seed, size, **_):
        random = np.random.default_rng(seed)
{body}
"""
_FROM_FOLDER = """\
        files = [sorted(Path({folder!r}).glob(f"train/{{name}}/*")) for name in classes]
        chosen = [files[target][random.integers(len(files[target]))] for target in targets]
        images = [Image.open(file).convert("L").resize((size, size)) for file in chosen]
        return np.stack([np.asarray(image) for image in images])
"""
_BODIES = {
    "real": _FROM_FOLDER,
    "scored": _FROM_FOLDER,
    "noise": "        return random.integers(256, size=(len(targets), size, size), dtype=np.uint8)\n",
    "copies": """\
        images = np.load(folder / "images.npy")
        labels = np.load(folder / "targets.npy")
        return np.stack([random.choice(images[labels == target]) for target in targets])
""",
}


def answer(root: Path, name: str, seed: int) -> str:
    """Search and confirm with an extension; return the verdict, or `refused` if it copies."""
    for hospital, patients_seed in (("xrays", 2 * seed), ("others", 2 * seed + 1)):
        if not (root / hospital).exists():
            paint_phantoms(
                root / hospital,
                patients=_PATIENTS,
                seed=patients_seed,
                image_size_px=_SIZE_PX,
                difficulty=0.0,
            )
    folder = root / ("others" if name == "real" else "xrays")
    body = _BODIES[name].format(folder=str(folder)) if "{folder" in _BODIES[name] else _BODIES[name]
    write_text(root / f"{name}.py", _CODE.format(body=body))
    replicates = 12 if name == "real" else 5  # a gain is found only if the interval is narrow
    save_backbone(root / "net.safetensors")
    write_text(
        root / f"{name}.yaml",
        _SPACE.format(name=name, seed=seed, size_px=_SIZE_PX, replicates=replicates),
    )
    EXTENSIONS.register([f"{root / name}.py:Known"])
    try:
        with confirm_in_process():
            overrides = [f"name={name}"]
            study = search_in_process(load_space(root / f"{name}.yaml", overrides), root)
            return confirm(study.path).verdict
    except (StudyError, TrialError) as error:
        is_refused = "copies of training" in str(error) or "no trial with synthetic" in str(error)
        return "refused" if is_refused else str(error)


def measure() -> Iterator[Figure]:
    """Yield how often each answer is right."""
    seeds = int(os.environ.get("SEEDS", "10"))
    answers: dict[str, Counter[str]] = {name: Counter() for name in _BODIES}
    for seed in range(seeds):
        with TemporaryDirectory() as folder:
            for name, counts in answers.items():
                word = answer(Path(folder), name, seed)
                print(f"seed {seed}, {name}: {word}", file=sys.stderr, flush=True)
                counts[word] += 1
    right = {
        "real images help": (answers["real"]["helps"], f">= {0.9 * seeds:g}"),
        "noise helps": (answers["noise"]["helps"], "<= 0"),
        "images of scored patients are invalid": (answers["scored"]["invalid"], f">= {seeds}"),
        "copies are refused": (answers["copies"]["refused"], f">= {seeds}"),
    }
    for what, (count, bar) in right.items():
        yield figure(f"known_extensions: {what}, of {seeds}", count, "studies", bar)
