"""The study of the tests of a study."""

from tests.study.conftest import study

__all__ = ["study"]
