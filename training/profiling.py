"""Where a training step's time goes: by part of the step, and by operator of PyTorch."""

import contextlib
import errno
import functools
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from training.batches import Batch, Batches
from training.embeddings import TableGroup
from training.engine_settings import EngineSettings
from training.step import Step
from training.tables.fused import FusedEmbedding

# Else PyTorch's profiler prints lines of its own when it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

READING = "reading (waiting for the loader)"
COPYING = "copying to the device"
LOSS = "loss and the rest of the model"
CLIPPING = "clipping, decay of table rows"
TABLES, DENSE = "optimizer of tables", "optimizer of dense layers"
REST = "rest of the loop"
TRACED_STEPS = 20

EMBEDDINGS = (TableGroup, FusedEmbedding, nn.Embedding, nn.EmbeddingBag)
BY_NAME = {"bottom": "bottom MLP", "top": "top MLP"}
BY_CLASS = {
    r"Attention": "attention",
    r"Interaction|Cross|Bilinear|^FM|Pairs": "interaction",
    r"^Objective$|Output$": "output layer",
    r"MLP|FeedForward|^Linear$": "MLPs",
    r"^(GRU|LSTM|RNN)": "recurrent layers",
}


@dataclass(frozen=True)
class Profile:
    """What was measured, all times in seconds of a step."""

    device: str
    steps: int
    batch_size: int
    step: float
    """Undisturbed: nothing but the loop itself."""
    measured_step: float
    """With a clock at every part, which on a GPU waits for it at each: the sum of ``parts``."""
    parts: dict[str, float]
    """Each part's own time, in the order of a step."""
    operators: list[dict[str, Any]]
    """``name``, ``calls`` and ``seconds`` of each operator of PyTorch, the largest first."""


class Clock:
    """Time by part. While a part runs inside of another one, only the inner one is counted."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = []
        self._device = device
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens in the block is ``name``, in the profiler's trace as well."""
        with record_function(name):
            self._count()
            self._open.append(name)
            depth = len(self._open)
            try:
                yield
            finally:
                self._count()
                del self._open[depth - 1 :]

    def switch(self, name: str) -> None:
        """From here on the innermost part is ``name``."""
        if self._open:
            self._count()
            self._open[-1] = name

    def _count(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def profile_training(
    model: nn.Module, train: Batches, settings: EngineSettings, steps: int, trace: Path
) -> Profile:
    """Trains ``model`` for some steps and says where their time went.

    Half of ``steps`` come first, to warm up. Then ``steps`` are timed undisturbed, as many with a
    clock at every part, and at last up to 20 under PyTorch's profiler.

    Args:
        model: on its device, as the engine sets it up; it is trained on.
        settings: with ``device`` and ``precision`` resolved.
        trace: file to write for chrome://tracing or https://ui.perfetto.dev.
    """
    step = Step(model, settings)
    clock = Clock(step.device)
    batches = itertools.chain.from_iterable(itertools.repeat(train))
    model.train(True)
    _train(step, batches, max(1, steps // 2))
    undisturbed = _train(step, batches, steps)
    with _parts(step, clock):
        measured = _train(step, batches, steps, clock)
        seconds = dict(clock.seconds)
        traced = min(steps, TRACED_STEPS)
        activities = [ProfilerActivity.CPU]
        if step.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as found:
            _train(step, batches, traced, clock)
    _export(found, trace)
    return Profile(
        device=str(step.device),
        steps=steps,
        batch_size=train.batch_size,
        step=undisturbed / steps,
        measured_step=measured / steps,
        parts={name: seconds[name] / steps for name in sorted(seconds, key=_place_in_step)},
        operators=_operators(found, set(seconds), traced, step.device),
    )


def _export(found: Any, trace: Path) -> None:
    """Writes the trace; torch's exporter says nothing where it cannot.

    Raises:
        OSError: it could not.
    """
    found.export_chrome_trace(str(trace))
    unfinished = trace.with_name(f"{trace.name}.tmp")
    if unfinished.exists() or not trace.is_file():
        with open(unfinished, "ab") as file:  # the disk is full, most likely, and this says so
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
        raise OSError(errno.EIO, "torch's profiler could not write the trace", str(trace))


def _train(step: Step, batches: Iterator[Batch], steps: int, clock: Clock | None = None) -> float:
    """Seconds of ``steps`` steps, as :class:`training.run.Run` makes them."""
    part = clock.part if clock else lambda name: contextlib.nullcontext()
    _wait(step.device)
    began = time.perf_counter()
    for _ in range(steps):
        with part(REST):
            with part(READING):
                batch = next(batches)
            batch = step.prepare(batch, 1.0)
            with part(LOSS):
                loss = step.forward(batch)
                loss.item()
            with part(f"backward of {LOSS}"):
                step.backward(loss)
            step.update()
    _wait(step.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _parts(step: Step, clock: Clock) -> Iterator[None]:
    """Within the block, the parts of ``step`` and the modules of its model set the clock."""
    tables = set(step.tables)
    wrapped = [(step, "place", COPYING), (step, "change_gradients", CLIPPING)]
    for optimizer in step.optimizers:
        weights = {weight for group in optimizer.param_groups for weight in group["params"]}
        wrapped.append((optimizer, "step", TABLES if weights & tables else DENSE))
    for owner, method, name in wrapped:
        setattr(owner, method, _timed(getattr(owner, method), name, clock))
    handles = [
        handle
        for module, kind in _kinds(step.model, "", step.settings.compile)
        for handle in _hooks(module, kind, clock)
    ]
    try:
        yield
    finally:
        for owner, method, _ in wrapped:
            delattr(owner, method)
        for handle in handles:
            handle.remove()


def _timed(function: Callable, name: str, clock: Clock) -> Callable:
    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        with clock.part(name):
            return function(*arguments, **named)

    return timed


def _kinds(module: nn.Module, name: str, compiled: bool) -> Iterator[tuple[nn.Module, str]]:
    """The outermost modules that are a part of a step, and which part; each table as well."""
    kind = _kind(module, name)
    # Hooks would break compiled layers into pieces.
    if kind and not (compiled and kind != "embedding"):
        yield module, kind
    if kind in (None, "embedding"):
        for below, child in module.named_children():
            yield from _kinds(child, below, compiled)


def _kind(module: nn.Module, name: str) -> str | None:
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if name in BY_NAME:
        return BY_NAME[name]
    found = (kind for pattern, kind in BY_CLASS.items() if re.search(pattern, _class(module)))
    return next(found, None)


def _class(module: nn.Module) -> str:
    return type(module).__name__


def _hooks(module: nn.Module, kind: str, clock: Clock) -> list[Any]:
    running: list[Any] = []

    def enter(*_: Any) -> None:
        running.append(clock.part(kind))
        running[-1].__enter__()

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        running.pop().__exit__(None, None, None)
        for tensor in _tensors(output):
            if tensor.requires_grad:
                # Its gradient is there: what runs backward next is this module.
                tensor.register_hook(lambda _: clock.switch(f"backward of {kind}"))

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


ORDER = [
    READING,
    COPYING,
    "embedding",
    "bottom MLP",
    "interaction",
    "attention",
    "recurrent layers",
    "MLPs",
    "top MLP",
    "output layer",
    LOSS,
]


def _place_in_step(name: str) -> tuple[int, int]:
    forward = name.removeprefix("backward of ")
    if forward != name:
        return 1, -ORDER.index(forward)
    if name in ORDER:
        return 0, ORDER.index(name)
    return 2, [CLIPPING, TABLES, DENSE, REST].index(name)


def _operators(
    found: profile, parts: set[str], steps: int, device: torch.device
) -> list[dict[str, Any]]:
    """Each operator's own time and calls in a step, those of the loop's parts left out."""
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = [event for event in found.key_averages() if event.key not in parts]
    rows = [
        {
            "name": event.key,
            "calls": event.count / steps,
            "seconds": getattr(event, own) / 1e6 / steps,
        }
        for event in events
    ]
    return sorted((row for row in rows if row["seconds"]), key=lambda row: -row["seconds"])
