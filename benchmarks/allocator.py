"""Time to compute a frozen network's features, with freed memory kept by the process and with malloc's defaults.

make bench ONLY=allocator
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from statistics import median

from benchmarks.figures import Figure, figure

_ROUNDS = 3
_MEASURE = """
import sys, time, torch, torchvision
from xraytune import compute
if sys.argv[1] == "default":
    compute._keep_freed_memory = lambda: None
compute.pin(compute.choose_compute(gpus=0, threads=1))
network = torchvision.models.mobilenet_v2().eval().to(memory_format=torch.channels_last)
images = torch.rand(32, 3, 128, 128).contiguous(memory_format=torch.channels_last)
with torch.inference_mode():
    network(images)
    started = time.process_time()
    for _ in range(16):
        network(images.clone())
print(time.process_time() - started)
"""


def measure() -> Iterator[Figure]:
    """Alternate between the two, each time in a new process."""
    seconds: dict[str, list[float]] = {"kept": [], "default": []}
    for _ in range(_ROUNDS):
        for how, found in seconds.items():
            done = subprocess.run([sys.executable, "-c", _MEASURE, how], check=True, capture_output=True, text=True)
            found.append(float(done.stdout))
    for how, found in seconds.items():
        yield figure(f"allocator: features of 512 images at 128 px, memory {how}", median(found), "CPU s")
    yield figure("allocator: kept over default", median(seconds["kept"]) / median(seconds["default"]), "", "<= 0.8")
