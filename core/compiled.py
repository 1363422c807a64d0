"""numba, as the loops over bytes and hash tables use it."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """``njit`` without the interpreter's lock; kept on disk where a cache folder can be written.

    A division by zero gives infinity, as in NumPy: a check would keep loops from vector units.
    """
    options = {"nogil": True, "error_model": "numpy", **more}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)


def compiled_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """:func:`compiled`, with sums of floats in an order that suits vector units."""
    return compiled(function, fastmath={"reassoc", "contract"})
