"""The study of `tests/study`, for the tests of the access log."""

from tests.study.conftest import study

__all__ = ["study"]
