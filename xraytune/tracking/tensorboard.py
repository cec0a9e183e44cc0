"""Track trials with TensorBoard: scalars and the sample grid. Only this file imports tensorboardX.

`SummaryWriter` is not used, because it writes in its own thread, where errors such as a full disk are lost.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from typing import Any

from PIL import Image

from xraytune.records import Json
from xraytune.tracking.tracker import Tracker


class TensorboardRun(Tracker):
    """A trial's event files, in `tensorboard/` in its folder; each start of the trial adds one."""

    name = "TensorBoard"
    fix = "`tracking: {tensorboard: false}` turns it off"

    def _start(self) -> None:
        folder = self.tracked.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._is_resumed = any(folder.iterdir())
        self._file = folder / f"events.out.tfevents.{time.time_ns()}"
        self._write(file_version="brain.Event:2")

    def _send(self, values: dict[str, Json], epoch: int) -> None:
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items() if name != "epoch"]
        self._write(step=epoch, summary={"value": scalars})

    def _send_samples(self, samples: Callable[[], Image.Image]) -> None:
        if not self._is_resumed:
            grid, png = samples(), io.BytesIO()
            grid.save(png, "PNG")
            size = {"width": grid.width, "height": grid.height, "colorspace": len(grid.getbands())}
            picture = {**size, "encoded_image_string": png.getvalue()}
            self._write(step=0, summary={"value": [{"tag": "samples", "image": picture}]})

    def _write(self, **content: Any) -> None:
        """Append an event as a TFRecord: its length, its content, and a checksum of each."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        event = Event(wall_time=time.time(), **content).SerializeToString()
        parts = (struct.pack("<Q", len(event)), event)
        with self._file.open("ab") as file:
            file.write(b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in parts))
