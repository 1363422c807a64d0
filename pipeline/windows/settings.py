"""Settings of the evaluation over daily windows."""

from typing import Literal

from pydantic import Field

from core.settings import Settings


class WindowsSettings(Settings):
    """Which days test, and how the models come to them. What is trained, and from which seeds, is
    said by ``sessions.compare``; where it names no entry, the recipe's model alone."""

    first_test_day: int = Field(1, ge=1)
    """The first day that tests; the log's first day is 0. Every later day with sessions tests too,
    each after training on the days before it."""
    modes: tuple[Literal["scratch", "incremental"], ...] = Field(
        ("scratch", "incremental"), min_length=1
    )
    """scratch: a fresh model for each window, trained on all of its days; incremental: the model of
    the window before, trained further on the sessions that are new. A model that does not learn by
    gradient counts all days, so for it both would be the same: it is only run from scratch."""
