"""How many cores there are for work."""

import pytest

from xraytune.base.cores import cpu_count


def test_a_limit_below_the_number_of_cores_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")

    assert cpu_count() == 1
