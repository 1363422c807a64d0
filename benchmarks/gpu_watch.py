"""What a GPU does while something runs: how busy it is, and how much of its memory is taken."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

SECONDS_BETWEEN_SAMPLES = 0.05


@dataclass
class Watch:
    """Samples of NVML, taken in a thread; empty where there is no GPU."""

    busy: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    @property
    def busy_share(self) -> float | None:
        """Mean share of the time in which a kernel ran."""
        return sum(self.busy) / len(self.busy) if self.busy else None

    @property
    def peak_bytes(self) -> int | None:
        """Of the whole GPU: what all processes had taken."""
        return max(self.memory, default=None)


@contextlib.contextmanager
def watched(device: str) -> Iterator[Watch]:
    """Watches the first GPU while the block runs; nothing where ``device`` is cpu."""
    watch = Watch()
    if device == "cpu":
        yield watch
        return
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SECONDS_BETWEEN_SAMPLES):
            watch.busy.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            watch.memory.append(pynvml.nvmlDeviceGetMemoryInfo(handle).used)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()
        pynvml.nvmlShutdown()
