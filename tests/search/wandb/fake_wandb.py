"""A fake of the part of wandb that xraytune calls. Any of these calls can fail or hang."""

import json
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.search.wandb.offline_runs import OfflineRun


class FakeRun:
    """A run that records calls, and writes them to a file when it ends."""

    def __init__(self, library: "FakeWandb", arguments: dict[str, Any]) -> None:
        self._library, self._arguments = library, arguments
        self.starting_step = library.starting_step
        self.summary: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def log(self, values: dict[str, Any], *, step: int, commit: bool) -> None:
        assert commit, "an epoch is visible when it has ended"
        self._library.at("log")
        self.rows.append(values | {"_step": step})

    def finish(self, exit_code: int) -> None:
        self._library.at("finish")
        arguments = self._arguments
        folder = Path(arguments["dir"]) / "wandb"
        number = len(list(folder.glob("offline-run-*")))
        written = folder / f"offline-run-{number}-{arguments['id']}" / f"run-{arguments['id']}.wandb"
        written.parent.mkdir(parents=True)
        for row in self.rows:
            if isinstance(image := row.pop("samples", None), FakeImage):
                image.image.save(written.with_name("samples.png"))
                row["samples.path"] = "samples.png"
        run = OfflineRun(
            id=arguments["id"],
            group=arguments["group"],
            name=arguments["name"],
            config=arguments["config"],
            rows=self.rows,
            summary=self.summary,
            exit_code=exit_code,
        )
        written.write_text(json.dumps(vars(run)), encoding="utf-8")


class FakeImage:
    def __init__(self, image: Any, caption: str) -> None:
        self.image, self.caption = image, caption


class FakeWandb(ModuleType):
    """The module.

    Args:
        at: The call that fails: `setup`, `init`, `log`, `finish` or `teardown`.
        error: Raised by it; None: it hangs until the test sets `release`.
        starting_step: The step at which the server resumes the run.
    """

    def __init__(self, at: str = "", error: BaseException | None = None, *, starting_step: int = 0) -> None:
        super().__init__("wandb")
        self.starting_step = starting_step
        self._at, self._error = at, error
        self.reached, self.release = threading.Event(), threading.Event()
        self.calls: list[str] = []

    def at(self, call: str) -> None:
        self.calls.append(call)
        if call != self._at:
            return
        self.reached.set()
        if self._error is not None:
            raise self._error
        self.release.wait()

    def setup(self, settings: object) -> object:
        del settings
        self.at("setup")
        return self

    def init(self, **arguments: Any) -> FakeRun:
        self.at("init")
        return FakeRun(self, arguments)

    def teardown(self) -> None:
        self.at("teardown")

    def Settings(self, **settings: object) -> object:
        return settings

    Image = FakeImage
