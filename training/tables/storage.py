"""Where tables and their optimizers' states lie: in memory, or in memory-mapped files."""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from core.artifacts import temporary_path
from core.errors import UserError

Allocate = Callable[[str, tuple[int, ...]], torch.Tensor]
"""A name and a shape → a float32 tensor of zeros."""


def in_memory(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Zeros in memory; pages that are never written take none."""
    return torch.zeros(shape)


class MappedFiles:
    """Tensors in files that the operating system reads and writes by the page.

    They take as little memory as is free: pages that have not been used for a while are written to
    the file and given up. The files are scratch and have no names, so that nothing is left of them
    however a process ends: a run starts and resumes from its checkpoints.

    Args:
        folder: on a disk with room for all of them; fast if it is to train fast.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __call__(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of zeros in a file of its own.

        Raises:
            UserError: the disk has not enough room.
        """
        elements = torch.Size(shape).numel()
        if not elements:
            return torch.zeros(shape)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Named as weights that are being written: what a killed process leaves is removed as such.
        path = temporary_path(self.folder / "model.safetensors")
        with open(path, "xb") as file:
            try:
                # A page that found no room on the disk later would end the process.
                os.posix_fallocate(file.fileno(), 0, 4 * elements)
                flat = torch.from_file(str(path), shared=True, size=elements, dtype=torch.float32)
            except OSError as error:
                raise UserError(
                    f"{self.folder}: no room for {4 * elements / 2**30:.1f} GiB of embedding "
                    f"tables ({error.strerror}); free some, or move the output to a larger disk"
                ) from None
            finally:
                path.unlink()
        return flat.view(shape)


_allocate: contextvars.ContextVar[Allocate] = contextvars.ContextVar("allocate", default=in_memory)


def allocator() -> Allocate:
    """What new tables are made with."""
    return _allocate.get()


@contextlib.contextmanager
def tables_in(folder: str | Path | None) -> Iterator[None]:
    """Models built inside have their tables in mapped files of ``folder``; None: in memory."""
    with tables_from(in_memory if folder is None else MappedFiles(folder)):
        yield


@contextlib.contextmanager
def tables_from(allocate: Allocate) -> Iterator[None]:
    """Models built inside have the tables that ``allocate`` makes."""
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)
