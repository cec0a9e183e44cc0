"""Probability of each verdict by number of test patients and GAN seeds: the table in docs/confirm.md.

Studies like those of `edges`: five controls, AUROC .955, a standard deviation of .006 between replicates (for the finalist
30 % of that variance comes from its GAN), as many images per patient as in Kermany et al. The forecast of a real study uses
its own variances.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.edges import CONTROLS, ROPE, WORDS, finalist_and_controls
from benchmarks.figures import Figure, figure
from benchmarks.simulated_studies import pooled, simulate
from xraytune.confirm.forecast import Design, measure_spread, verdict_chances

_AUROC = 0.955
_PATIENTS = (144, 428, 1000, 2000)
_GAN_SEEDS = (5, 10, 20)


def measure() -> Iterator[Figure]:
    """Yield the figures of each design at true differences of 0, one and two ROPE; print the table."""
    pilots = simulate(
        finalist_and_controls(_AUROC, 0.0), patients=428, gan_seeds=5, classifier_seeds=2, studies=200, seed=17
    )
    spread = pooled([measure_spread(one) for one in pilots])
    print("| patients | GAN seeds | no difference | better by one ROPE | better by two ROPE |\n|---|---|---|---|---|")
    for patients in _PATIENTS:
        for gan_seeds in _GAN_SEEDS:
            design = Design(effective_patients=0.99 * patients, gan_seeds=gan_seeds, score=_AUROC)  # 45 % are normal
            cells = []
            for ropes in (0, 1, 2):
                chances = verdict_chances(spread, design, CONTROLS, rope=ROPE, true_difference=ropes * ROPE)
                shares = {word: float(getattr(chances, word)) for word in WORDS}
                cells.append(", ".join(f"{word} {share:.0%}" for word, share in shares.items() if share >= 0.01))
                for word, share in shares.items():
                    case = f"{patients} patients, {gan_seeds} GAN seeds, better by {ropes} ROPE"
                    yield figure(f"designs: {word}, {case}", share, "share")
            print(f"| {patients} | {gan_seeds} | {' | '.join(cells)} |")
