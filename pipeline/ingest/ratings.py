"""Ratings (user, item, rating, time) → typed rows; recipes/movielens.yaml is for MovieLens."""

from core.settings import Settings
from pipeline.ingest.columns import Column
from pipeline.ingest.events import EventSourceSettings

KINDS = {"user_id": "id", "item_id": "id", "rating": "number", "timestamp": "time"}


class RatingsColumns(Settings):
    """Names of the log's columns. A type after a colon in the log (``user_id:token``, as RecBole
    writes it) need not be given."""

    user_id: str = "user_id"
    """The user."""

    item_id: str = "item_id"
    """The item."""

    rating: str = "rating"
    """The rating, a number."""

    timestamp: str = "timestamp"
    """The time of the rating; see time_format."""


class RatingsSourceSettings(EventSourceSettings):
    """A log of ratings, one a line."""

    columns: RatingsColumns = RatingsColumns()
    """Which column of the log holds what."""


def rating_columns(settings: RatingsSourceSettings) -> list[Column]:
    """The columns to read, in the order of the output; all are required."""
    return [
        Column(name, getattr(settings.columns, name), kind, f"columns.{name}", required=True)
        for name, kind in KINDS.items()
    ]
