"""Ratings (user, item, rating, time), or pairs of users and items → typed rows."""

from pipeline.ingest.columns import Column, Kind
from pipeline.ingest.events import EventSourceSettings
from pipeline.ingest.source import NamedColumns

KINDS: dict[str, Kind] = {
    "user_id": "id",
    "item_id": "id",
    "rating": "number",
    "timestamp": "time",
    "event_order": "order",
}
OPTIONAL = ("event_order",)


class RatingsColumns(NamedColumns):
    """Names of the log's columns. A type after a colon in the log (``user_id:token``, as RecBole
    writes it) need not be given."""

    user_id: str = "user_id"
    """The user."""

    item_id: str = "item_id"
    """The item."""

    rating: str | None = "rating"
    """The rating, a number. null: a row says that the user chose the item, as a rating of 1."""

    timestamp: str | None = "timestamp"
    """The time of the rating; see time_format. null: a user's rows are in the order of the log, and
    split.kind has to be random or leave_one_out."""

    event_order: str | None = None
    """An integer that puts a user's ratings of the same time in order, those without one first.
    null: the order of the rows does."""


class RatingsSourceSettings(EventSourceSettings):
    """A log of ratings, one a line."""

    columns: RatingsColumns = RatingsColumns()
    """Which column of the log holds what."""


def rating_columns(settings: RatingsSourceSettings) -> list[Column]:
    """The columns to read, in the order of the output."""
    return [
        Column(
            name,
            source,
            kind,
            f"columns.{name}",
            required=name not in OPTIONAL,
            nullable=name not in ("user_id", "item_id"),
        )
        for name, kind in KINDS.items()
        if (source := getattr(settings.columns, name)) is not None
    ]
