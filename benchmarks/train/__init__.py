"""The speed of training."""

import core  # noqa: F401  Before torch, also in the processes that are started for one way.
