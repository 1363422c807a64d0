"""The one place that starts Dask: this machine's cores, its GPUs, or a scheduler's address."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

import core.merlin  # noqa: F401  (sets what Dask must be told before it is imported)
from core.console import progress
from core.errors import UserError
from core.settings import Settings

REDUCE_WIDTH = 8
"""Results that a worker puts together at once."""


CONNECT_TIMEOUT = "30s"


class ClusterSettings(Settings):
    """Where preprocessing runs."""

    kind: Literal["threads", "processes", "cuda", "scheduler"] = "threads"
    """threads: this process (the operators release the GIL); processes: one worker a core;
    cuda: one worker a GPU (dask-cuda); scheduler: a running Dask scheduler at ``address``."""
    workers: int | None = Field(None, ge=1)
    """Threads, processes or GPUs to use; empty means all that the machine has."""
    memory_limit: str = "4GiB"
    """Bound on the memory of all workers together; beyond it Dask spills to disk or waits."""
    address: str | None = None
    """Address of the scheduler, such as tcp://host:8786, for kind: scheduler."""

    @model_validator(mode="after")
    def _address_given(self) -> "ClusterSettings":
        if self.kind == "scheduler" and not self.address:
            raise ValueError("kind 'scheduler' needs cluster.address, such as tcp://host:8786")
        return self


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def start(settings: ClusterSettings) -> Iterator[Any]:
    """A Dask client for the block; it and what it started are closed afterwards."""
    import dask
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    workers = settings.workers or cores()
    memory = parse_bytes(settings.memory_limit)
    # A client that is closed while its workers still say goodbye is no news to the user.
    with warnings.catch_warnings(), dask.config.set({"distributed.comm.timeouts.connect": "30s"}):
        warnings.simplefilter("ignore")
        if settings.kind == "scheduler":
            with _connect(settings.address) as client:
                yield client
            return
        options = {"dashboard_address": None, "silence_logs": logging.ERROR}
        if settings.kind == "threads":
            shape = {"n_workers": 1, "threads_per_worker": workers, "processes": False}
            cluster = LocalCluster(memory_limit=memory, **shape, **options)
        elif settings.kind == "processes":
            shape = {"n_workers": workers, "threads_per_worker": 1, "processes": True}
            cluster = LocalCluster(memory_limit=memory // workers, **shape, **options)
        else:
            cluster = _cuda_cluster(settings, options)
        with cluster, Client(cluster) as client:
            yield client


def _connect(address: str | None) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_TIMEOUT)
    except OSError as error:
        raise UserError(f"cluster.address {address}: no Dask scheduler answers ({error})") from None


def _cuda_cluster(settings: ClusterSettings, options: dict[str, Any]) -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError:
        raise UserError(
            "cluster.kind is 'cuda', but dask-cuda is not installed: install the 'gpu' extra on a "
            "machine with an NVIDIA GPU, or set cluster.kind to 'threads'"
        ) from None
    return LocalCUDACluster(
        n_workers=settings.workers,
        memory_limit=settings.memory_limit,
        rmm_pool_size=0.8,
        device_memory_limit=0.7,
        jit_unspill=True,
        **options,
    )


def run(client: Any, what: str, function: Callable, items: Iterable[Any], *fixed: Any) -> list[Any]:
    """``[function(item, *fixed) for item in items]`` on the workers, with progress, in order.

    ``fixed`` is sent to each worker once. A failure of one item ends the run with its error.
    """
    items = list(items)
    if not items:
        return []
    shared = _send(client, fixed)
    futures = [client.submit(function, item, *shared, pure=False) for item in items]
    _wait(client, what, list(futures))
    return client.gather(futures)


def reduce(
    client: Any,
    what: str,
    function: Callable,
    combine: Callable[[list[Any]], Any],
    items: Iterable[Any],
    *fixed: Any,
) -> Any:
    """``combine`` over ``function(item, *fixed)`` of all items, ``REDUCE_WIDTH`` at a time.

    What is put together depends on the order of the items alone, never on which was ready first;
    it is put together on the workers as soon as it can be, and then let go.

    Raises:
        ValueError: there are no items.
    """
    items = list(items)
    if not items:
        raise ValueError("nothing to reduce")
    shared = _send(client, fixed)
    leaves = [client.submit(function, item, *shared, pure=False) for item in items]
    level, first = leaves, True
    while first or len(level) > 1:
        starts = range(0, len(level), REDUCE_WIDTH)
        # Before any new item: what is put together frees its parts.
        groups = [level[start : start + REDUCE_WIDTH] for start in starts]
        level = [client.submit(combine, group, pure=False, priority=10) for group in groups]
        first = False
    groups = None
    _wait(client, what, leaves)
    return level[0].result()


def _send(client: Any, values: Iterable[Any]) -> list[Any]:
    return [client.scatter(value, broadcast=True, hash=False) for value in values]


def _wait(client: Any, what: str, futures: list[Any]) -> None:
    """Waits for ``futures``, with progress; empties the list, so that results can be let go."""
    from distributed import as_completed

    total, waiting = len(futures), as_completed(futures)
    futures.clear()
    with progress(what, total=total, unit="parts") as advance:
        for future in waiting:
            if future.status == "error":
                error = future.exception()
                client.cancel(list(waiting.futures))
                raise error
            advance()
