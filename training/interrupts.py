"""Ctrl-C, SIGTERM and SIGHUP while training: the step is finished first."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from core.signals import NUMBERS
from training.distributed import ranks


class Interrupts:
    """Whether a signal asked the run to end.

    Attributes:
        number: the signal.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number = signal.SIGINT

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Has the first signal set ``asked``; a second one ends the process as it always does.

        Of several processes, each may get the terminal's signal and torchrun's: none ends then
        before all have written their checkpoint, or torchrun ends them.
        """
        before = {}

        def handle(number: int, frame: Any) -> None:
            self.asked, self.number = True, number
            if ranks.world_size() == 1:
                signal.signal(number, before[number] or signal.SIG_DFL)

        with contextlib.suppress(ValueError):  # Not the main thread: signals go elsewhere.
            for number in NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.getsignal(number)
                    signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
