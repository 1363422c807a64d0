"""The processes of one training: who they are, what they tell each other, how they end together.

Everything here also works in a process that is alone, where it costs nothing.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from core import console
from core.errors import UserError

T = TypeVar("T")
Tensors = dict[str, torch.Tensor]

LOST = (
    "another training process ended without a word, or did not answer in time (killed, out of "
    "memory, or its machine is gone). The same command goes on from the last checkpoint; "
    "train.process_timeout_minutes says how long to wait for an answer"
)


class Ended(SystemExit):
    """This process ends because of an error that another one has shown already."""

    def __init__(self) -> None:
        super().__init__(1)


class _World:
    """What :func:`joined` sets up."""

    store: dist.Store | None = None
    control: dist.ProcessGroup | None = None
    """Over gloo whatever the device: flags, states and metrics never wait for a GPU."""


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _World.control is not None else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _World.control is not None else 1


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return rank() == 0


def control() -> dist.ProcessGroup | None:
    """The group for what is sent between CPUs; None in a process that is alone."""
    return _World.control


def local_device(device: str) -> torch.device:
    """This process's own device: on a machine with several GPUs the one of its number there."""
    if device == "cuda" and _World.control is not None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(device)


@contextlib.contextmanager
def joined(device: str, timeout_minutes: float) -> Iterator[None]:
    """Joins the processes that ``torchrun`` started; nothing where it did not start this one.

    All processes but the first are silent. An error inside any of them ends all: it is shown once,
    by the process that met it.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (NCCL, one GPU a process).
        timeout_minutes: how long a process waits for another before it takes it for lost.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or _World.control is not None:
        yield
        return
    timeout = timedelta(minutes=timeout_minutes)
    if device == "cuda":
        _choose_gpu()
    try:
        _World.store, number, count = next(iter(dist.rendezvous("env://", timeout=timeout)))
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            store=dist.PrefixStore("groups", _World.store),
            rank=number,
            world_size=count,
            timeout=timeout,
        )
        _World.control = dist.new_group(backend="gloo", timeout=timeout)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other training processes ({_first_line(error)}); start them with "
            "torchrun, and check that its rendezvous address can be reached from every machine"
        ) from None
    console.silence_other_ranks()
    try:
        yield
    except BaseException as error:
        _end(error)
        raise
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        _World.store = _World.control = None


def own_seed(seed: int, step: int = 0) -> int:
    """A seed of this process's own; the first one keeps ``seed``, as if it were alone."""
    if is_first():
        return seed
    return int(np.random.SeedSequence([seed, rank(), step]).generate_state(1)[0])


def any_of(flags: list[bool]) -> list[bool]:
    """Each flag: whether it is set in any process."""
    if world_size() == 1:
        return flags
    found = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=control())
    return [bool(flag) for flag in found.tolist()]


def total(value: float) -> float:
    """The sum of every process's ``value``."""
    if world_size() == 1:
        return value
    found = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(found, group=control())
    return float(found)


def gathered(value: Any) -> list[Any]:
    """Every process's JSON-able ``value``, by rank, in every process."""
    if world_size() == 1:
        return [value]
    text = _bytes(value)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(text)]), group=control())
    longest = max(int(length) for length in lengths)
    padded = torch.nn.functional.pad(text, (0, longest - len(text)))
    texts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(texts, padded, group=control())
    return [
        json.loads(text[: int(length)].numpy().tobytes())
        for text, length in zip(texts, lengths, strict=True)
    ]


def shared(value: Any = None) -> Any:
    """The first process's JSON-able ``value``, in every process."""
    if world_size() == 1:
        return value
    text = _bytes(value) if is_first() else torch.empty(0, dtype=torch.uint8)
    length = torch.tensor([len(text)])
    dist.broadcast(length, 0, group=control())
    text = text if is_first() else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, 0, group=control())
    return json.loads(text.numpy().tobytes())


def shared_tensors(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The first process's tensors, in every process, on the CPU."""
    if world_size() == 1:
        return dict(tensors)
    about = {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in tensors.items()}
    found = {}
    for name, (dtype, shape) in shared(about).items():
        tensor = torch.empty(shape, dtype=getattr(torch, dtype))
        if is_first():
            tensor.copy_(tensors[name])
        dist.broadcast(tensor, 0, group=control())
        found[name] = tensor
    return found


def tensors_to_first(tensors: Mapping[str, torch.Tensor]) -> list[Tensors]:
    """In the first process every process's tensors by rank, on the CPU; elsewhere nothing."""
    about = {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in tensors.items()}
    abouts = gathered(about)
    if not is_first():
        for tensor in tensors.values():
            dist.send(tensor.detach().cpu().contiguous(), 0, group=control())
        return []
    found = [dict(tensors)]
    for source, about in enumerate(abouts[1:], 1):
        received = {}
        for name, (dtype, shape) in about.items():
            received[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            dist.recv(received[name], source, group=control())
        found.append(received)
    return found


def on_first(work: Callable[[], T], serve: Mapping[str, Callable[[], None]] | None = None) -> T:
    """Does ``work`` in the first process; its JSON-able result, or its error, is everyone's.

    Args:
        serve: what the other processes do when ``work`` calls :func:`ask` for it by name.

    Raises:
        UserError: in every process, where ``work`` raised it or an ``OSError``.
    """
    if world_size() == 1:
        return work()
    if is_first():
        answer: dict[str, Any] = {}
        try:
            answer["result"] = work()
        except (UserError, OSError) as error:
            _claim()
            answer["error"] = str(error)
            shared(answer)
            raise
        return shared(answer)["result"]
    while True:
        answer = shared()
        if "ask" in answer:
            (serve or {})[answer["ask"]]()
        elif "error" in answer:
            raise UserError(answer["error"])
        else:
            return answer["result"]


def ask(name: str) -> None:
    """Within the first process's work: has the others do what they serve under ``name``."""
    shared({"ask": name})


def _bytes(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _choose_gpu() -> None:
    number, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"process {number} of this machine has no GPU of its own: torch sees {count}; start as "
            "many processes a machine as it has GPUs, or set train.device to cpu"
        )
    torch.cuda.set_device(number)


def _end(error: BaseException) -> None:
    """Settles which process shows an error; the others end in silence."""
    lost = isinstance(error, RuntimeError) and _is_about_contact(error)
    # Whoever meets an error says so before its connections close, so before others can notice.
    if not _claim():
        raise Ended from None
    console.err.quiet = False
    if lost:
        raise UserError(LOST) from error


def _claim() -> bool:
    """Whether it falls to this process to show the error that ends all."""
    own = str(rank()).encode()
    try:
        return _World.store.compare_set("error", "", own.decode()) == own
    except RuntimeError:
        return True  # The store is gone, and the process with it that could have said more.


def _is_about_contact(error: RuntimeError) -> bool:
    text = str(error).lower()
    words = ("gloo", "nccl", "connection", "timed out", "timeout", "peer", "broken pipe")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
