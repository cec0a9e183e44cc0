"""Shared by all tests: no time limits, and tests that start Ray run one after another."""

import gc
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.extension_files import undeclared

settings.register_profile(
    "any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
os.environ.setdefault(
    "RAY_worker_niceness", "0"
)  # Ray's 15 would have its tests wait for all others
# Test processes share the cores: each uses one, unless it asks for more or starts Ray, and idle
# threads do not spin.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # which `cpu_count` returns

_TESTS = Path(__file__).parent
_FILES = {file: file.read_text("utf-8") for file in _TESTS.rglob("test_*.py")}
_ONE_STUDY = {"tests/model", "tests/present"}
_RAY_FILES = {file for file, text in _FILES.items() if "@pytest.mark.ray" in text}


class RayTogether(LoadFileScheduling):  # type: ignore[misc]
    """Let one process run all tests with Ray, and the others whole files or folders of tests."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        folder = file.rpartition("/")[0]
        if _TESTS.parent / file in _RAY_FILES:
            return "ray"
        return folder if folder in _ONE_STUDY else file


@pytest.fixture(autouse=True)
def _extensions_of_a_test_are_forgotten() -> Iterator[None]:
    """Those of a module's fixtures stay declared until its end."""
    with undeclared():
        yield


@pytest.fixture(autouse=True)
def _ray_has_all_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("ray"):
        monkeypatch.delenv("LOKY_MAX_CPU_COUNT")


@pytest.fixture(scope="module", autouse=True)
def _code_of_users_is_forgotten() -> Iterator[None]:
    """Forget the extensions that the tests of a file declared, and import their files anew."""
    known_modules = {*sys.modules}
    known_path = [*sys.path]
    with undeclared():
        yield
    sys.path[:] = known_path
    examples = _TESTS.with_name("examples")
    for name in sys.modules.keys() - known_modules:
        file = Path(getattr(sys.modules[name], "__file__", None) or "")
        if file.parent == examples or "pytest-of-" in str(file):
            del sys.modules[name]


def pytest_configure(config: pytest.Config) -> None:
    """`make quick` is over before garbage matters."""
    if "not slow" in config.option.markexpr:
        gc.disable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make quick` does not import files whose tests are all slow, nor torch and Ray for them."""
    text = _FILES.get(collection_path, "")
    slow = len(re.findall(r"^@pytest\.mark\.slow$", text, re.MULTILINE))
    is_slow = "\npytestmark = " in text or slow == text.count("\ndef test_")
    return True if text and is_slow and "not slow" in config.option.markexpr else None


@pytest.hookimpl(optionalhook=True)  # pytest also runs with `-p no:xdist`
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> RayTogether:
    """Of `make test`."""
    return RayTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's tests, the longest, come first."""
    items.sort(key=lambda item: item.path not in _RAY_FILES)


@pytest.fixture(scope="module")
def module_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder for what the tests of a module share."""
    return tmp_path_factory.mktemp("module")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def official_mobilenet() -> Path:
    """A folder with torchvision's weights of MobileNetV2, which lies beside the clone."""
    folder = _TESTS.parent / "../shared/data/weights"
    if not folder.is_dir():
        pytest.skip("needs torchvision's MobileNetV2 weights in ../shared/data/weights")
    return folder


@pytest.fixture
def waited_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ExitStack, list[str]]]:
    """What ends as soon as a message says that its lock is waited for, and the messages."""
    monkeypatch.setattr("xraytune.base.locks._LOOKS_IN_SILENCE", 0)
    other = ExitStack()
    messages = []

    class EndOther(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())
            other.close()

    handler = EndOther()
    logger = logging.getLogger("xraytune.base.locks")
    logger.addHandler(handler)
    yield other, messages
    logger.removeHandler(handler)


@pytest.fixture
def unset_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip torchvision's initialisation of weights, which takes seconds."""
    from torch import nn

    names = "kaiming_normal_ kaiming_uniform_ trunc_normal_ normal_ xavier_uniform_ uniform_"
    for name in names.split():
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
