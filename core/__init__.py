"""What every room stands on: settings, artifacts, the console, Dask, and Merlin itself."""

import os
import warnings

# torch imports NVML's bindings under their old name wherever both are installed.
warnings.filterwarnings("ignore", message="The pynvml package is deprecated")

# Read when torch is loaded, so they stand where every room's first import comes by.
# Large tensors lie on large pages: steps over tables of a million rows, read all over, take 5 to
# 10% less time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# How long an OpenMP thread without work keeps its core busy waiting. Its default, milliseconds,
# takes the core from the compiled loops that come between torch's operators: 15 to 20% of a step.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
