"""What all tests share: none fails because a machine is slow or busy, and Ray's run one after the other."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, a process runs all tests of Ray, which would be in each other's way, and the others run whole files."""
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else f"{item.path.parent.name}/{item.path.stem}"
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)  # the longest first
