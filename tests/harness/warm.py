"""Loads numba's compiled functions, in a server: no process forked from it has to do that."""

import contextlib
import importlib
import sys

from tests.harness.operations import MODULES

OURS = ("core", "pipeline", "training", "workflows")


def load_compiled() -> int:
    """Loads what earlier runs compiled and kept on disk; returns how many versions of functions."""
    from numba.core.registry import CPUDispatcher

    loaded = 0
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        for value in list(vars(sys.modules[name]).values()):
            if isinstance(value, CPUDispatcher) and not value.overloads:
                loaded += _load(value)
    return loaded


def _load(function) -> int:
    """Loads the versions of one function: numba keeps them by the types of the arguments."""
    loaded = 0
    cache = function._cache
    with contextlib.suppress(AttributeError, OSError):
        for key in cache._cache_file._load_index():
            found = cache.load_overload(key[0], function.targetctx)
            if found is not None and key[0] not in function.overloads:
                function.add_overload(found)
                loaded += 1
    return loaded


for module in MODULES:
    importlib.import_module(module)
load_compiled()
