"""The trials of `benchmarks.peers` in other tuners, used as documented, and in a script that shares work by hand.

    python -m benchmarks.peer_tuners ray|optuna|hand_shared TRIALS.json OUT.json

TRIALS.json holds the parameters common to all trials, and a grid of values for the others.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import peer_trial

_SLOTS = 2
Values = list[tuple[dict[str, Any], float]]


def ray(common: dict[str, Any], grid: dict[str, list[Any]]) -> Values:
    """Ray Tune's function API with a grid search and the default of one CPU per trial."""
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        peer_trial.trial(config, on_epoch=lambda auroc: tune.report({"auroc": auroc}))

    space = common | {name: tune.grid_search(values) for name, values in grid.items()}
    tuner = tune.Tuner(
        trainable, param_space=space, tune_config=tune.TuneConfig(metric="auroc", mode="max")
    )
    best = tuner.fit().get_dataframe(filter_metric="auroc", filter_mode="max")
    return [
        ({name: row[f"config/{name}"] for name in grid}, row["auroc"])
        for row in best.to_dict("records")
    ]


def optuna(common: dict[str, Any], grid: dict[str, list[Any]]) -> Values:
    """Optuna in several processes that share a journal, with all trials enqueued."""
    import optuna as library

    with tempfile.TemporaryDirectory() as folder:
        journal = f"{folder}/journal"
        study = library.create_study(
            study_name="peer", storage=_journal(journal), direction="maximize"
        )
        for values in product(*grid.values()):
            study.enqueue_trial(dict(zip(grid, values, strict=True)))
        context = multiprocessing.get_context("spawn")
        workers = [
            context.Process(target=_optimize, args=(journal, common, grid)) for _ in range(_SLOTS)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return [
            (trial.params, float(trial.value or 0))
            for trial in library.load_study(study_name="peer", storage=_journal(journal)).trials
        ]


def _journal(path: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(path))


def _optimize(journal: str, common: dict[str, Any], grid: dict[str, list[Any]]) -> None:
    import optuna as library

    def objective(trial: Any) -> float:
        return peer_trial.trial(
            common
            | {name: trial.suggest_categorical(name, values) for name, values in grid.items()}
        )

    states = library.trial.TrialState.COMPLETE, library.trial.TrialState.RUNNING
    stop = library.study.MaxTrialsCallback(math.prod(map(len, grid.values())), states=states)
    library.load_study(study_name="peer", storage=_journal(journal)).optimize(
        objective, callbacks=[stop]
    )


def hand_shared(common: dict[str, Any], grid: dict[str, list[Any]]) -> Values:
    """A careful user's script: train each GAN once, compute frozen features once, then run all trials in a pool."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(_SLOTS) as pool:
        jobs = [
            (common, steps, max(grid["ratio"]), folder)
            for steps in sorted(grid["gan_steps"], reverse=True)
        ]
        pool.starmap(_prepare_pool, jobs, chunksize=1)
        if common["trainable"] == "head":
            names = ["train", "val", *map(str, grid["gan_steps"])]
            pool.starmap(_prepare_features, [(common, name, folder) for name in names], chunksize=1)
        points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        values = pool.starmap(
            _shared_trial, [(common | point, folder) for point in points], chunksize=1
        )
    return list(zip(points, values, strict=True))


def _prepare_pool(common: dict[str, Any], steps: int, ratio: float, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = Path(common["data"])
    labels = peer_trial.xrays(data / "train").targets
    generator = peer_trial.train_gan(common | {"gan_steps": steps})
    torch.save(
        peer_trial.synthetic_images(generator, labels, round(ratio * len(labels))),
        f"{folder}/{steps}.pt",
    )


def _images(common: dict[str, Any], name: str, folder: str) -> tuple[Tensor, Tensor]:
    """Return all images and labels of train, val, or a GAN's pool."""
    if name in ("train", "val"):
        whole = next(
            iter(DataLoader(peer_trial.xrays(Path(common["data"]) / name), batch_size=10**6))
        )
        return whole[0], whole[1]
    images, labels = torch.load(f"{folder}/{name}.pt")
    return images, labels


def _prepare_features(common: dict[str, Any], name: str, folder: str) -> None:
    torch.set_num_threads(1)
    backbone = peer_trial.classifier(Path(common["weights"]), trainable="head").eval()
    backbone.classifier = nn.Identity()
    images, labels = _images(common, name, folder)
    with torch.no_grad(), peer_trial.bfloat16():
        features = torch.cat([backbone(part).float() for part in torch.split(images, 64)])
    torch.save((features, labels), f"{folder}/features-{name}.pt")


def _shared_trial(config: dict[str, Any], folder: str) -> float:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    is_frozen = config["trainable"] == "head"

    def side(name: str) -> tuple[Tensor, Tensor]:
        if not is_frozen:
            return _images(config, name, folder)
        features, labels = torch.load(f"{folder}/features-{name}.pt")
        return features, labels

    real, synthetic = side("train"), side(str(config["gan_steps"]))
    count = round(config["ratio"] * len(real[1]))
    chosen = (
        torch.linspace(0, len(synthetic[1]) - 1, count).round().long()
    )  # keeps the class proportions
    mixed = TensorDataset(
        *(torch.cat([one, other[chosen]]) for one, other in zip(real, synthetic, strict=True))
    )
    train = DataLoader(
        mixed, batch_size=round(peer_trial.BATCH * (1 + config["ratio"])), shuffle=True
    )
    val = DataLoader(TensorDataset(*side("val")), batch_size=128)
    model = peer_trial.classifier(Path(config["weights"]), trainable=config["trainable"])
    return peer_trial.train_classifier(
        model.classifier if is_frozen else model,  # type: ignore[arg-type]
        lambda: peer_trial.forever(train),
        lambda: iter(val),
        lr=config["lr"],
        epochs=config["epochs"],
        steps=-(-len(real[1]) // peer_trial.BATCH),
        on_epoch=lambda _: None,
    )


_TUNERS: dict[str, Callable[[dict[str, Any], dict[str, list[Any]]], Values]] = {
    "ray": ray,
    "optuna": optuna,
    "hand_shared": hand_shared,
}

if __name__ == "__main__":
    trials = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    Path(sys.argv[3]).write_text(
        json.dumps(_TUNERS[sys.argv[1]](trials["common"], trials["grid"])), encoding="utf-8"
    )
