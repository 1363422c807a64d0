"""A bound on what the building of a model may allocate, whatever its settings ask for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from core.errors import UserError
from training.tables.storage import Allocate, allocator, in_memory, tables_from

ALWAYS_ALLOWED = 64 << 20
COPIES = 4
"""How often the weights may be made while a model is built; all models here make them once."""
OPERATIONS, OPERATIONS_EACH = 2_000, 40
"""Of torch that building may take, and more of them for each tensor and column."""
BYTES_AN_OPERATION = 1 << 16


class TooLarge(UserError):
    """A model would be larger than its weights."""


class _Bounded(TorchDispatchMode):
    """Adds up the sizes of new tensors, each before it is made."""

    def __init__(self, most_bytes: int, most_operations: int) -> None:
        super().__init__()
        self.most_bytes, self.left = most_bytes, most_bytes
        self.operations = most_operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations -= 1
        if self.operations < 0:
            raise TooLarge("more layers than the weights have tensors for")
        if func._schema.returns and not any(one.alias_info for one in func._schema.returns):
            return self._new(func, args, kwargs)
        return func(*args, **kwargs)

    def _new(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What an operation gives whose results are no views."""
        try:
            given = {**kwargs, "device": "meta"} if _has_device(func) else kwargs
            self.take(_bytes_in(func(*tree_map(_as_meta, args), **tree_map(_as_meta, given))))
        except (NotImplementedError, RuntimeError):  # how large it is depends on values
            made = func(*args, **kwargs)
            self.take(_bytes_in(made))
            return made
        return func(*args, **kwargs)

    def take(self, size: int) -> None:
        """Counts new memory.

        Raises:
            TooLarge: there is no more.
        """
        self.left -= size
        if self.left < 0:
            raise TooLarge(f"more than {self.most_bytes:,} bytes")


def _has_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


def _as_meta(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _bytes_in(made: Any) -> int:
    tensors = made if isinstance(made, tuple | list) else [made]
    return sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))


@contextlib.contextmanager
def bounded(weights_bytes: int, parts: int) -> Iterator[None]:
    """Stops the building of a model inside where it needs far more memory, or operations, than a
    model of such weights; tables in files count as well.

    Args:
        weights_bytes: what the weights take in their file.
        parts: tensors in that file, and columns of the features.

    Raises:
        TooLarge: it does.
    """
    operations = OPERATIONS + OPERATIONS_EACH * parts + weights_bytes // BYTES_AN_OPERATION
    mode = _Bounded(COPIES * weights_bytes + ALWAYS_ALLOWED, operations)
    inner: Allocate = allocator()

    def allocate(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if inner is not in_memory:  # a file, which no operation of torch makes
            mode.take(4 * torch.Size(shape).numel())
        return inner(name, shape)

    with tables_from(allocate), mode:
        yield
