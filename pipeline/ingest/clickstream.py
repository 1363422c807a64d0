"""Clickstreams → typed events with the raw columns of the sessions recipe."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.ingest.columns import Column
from pipeline.ingest.events import EventSourceSettings
from pipeline.ingest.source import NamedColumns, check_names

REQUIRED = ("session_id", "item_id", "timestamp")
KINDS = {
    "session_id": "id",
    "item_id": "id",
    "timestamp": "time",
    "user_id": "id",
    "event_type": "category",
    "category": "category",
    "brand": "category",
    "price": "number",
    "event_order": "order",
}


class ClickstreamColumns(NamedColumns):
    """Names of the log's columns, or paths into nested ones (event.item.id); those that are null
    are not read."""

    session_id: str | None = "session_id"
    """The session. null: sessions are cut from each user's events at pauses longer than
    session_gap_minutes; with layout: sessions, each row is one of its own."""

    item_id: str = "item_id"
    """The item."""

    timestamp: str | None = "timestamp"
    """The time of the event; see time_format. null, only with layout: sessions: the log has no
    times, but each input folder is a day."""

    user_id: str | None = None
    """The user (optional unless sessions are cut by user)."""

    event_type: str | None = None
    """View, cart, purchase … (optional)."""

    category: str | None = None
    """The item's category (optional)."""

    brand: str | None = None
    """The item's brand (optional)."""

    price: str | None = None
    """The item's price, a number (optional)."""

    event_order: str | None = None
    """An integer that puts events of the same time in order, such as the number of a hit in its
    visit; events without one come first. null: the order of the rows does."""


class ClickstreamSourceSettings(EventSourceSettings):
    """A clickstream: one event a line, with session (or user), item and time."""

    columns: ClickstreamColumns = ClickstreamColumns()
    """Which column of the log holds what. Of a log that ``generate`` wrote all are read where none
    are named here."""

    layout: Literal["events", "sessions"] = "events"
    """What a row holds: an event, or a whole session (JSON lines and Parquet), the item and other
    columns lists of one value an event, or paths through a list of objects (events.aid); a column
    that is no list holds for all events of its row."""

    extra_categorical: list[str] = Field(default_factory=list)
    """Further columns of the log to carry on under their own names, as ids or texts."""

    extra_continuous: list[str] = Field(default_factory=list)
    """Further columns of the log to carry on under their own names, as numbers."""

    vectors: list[str] = Field(default_factory=list)
    """Columns with a vector of fixed width (a text or image embedding): lists in Parquet and JSON,
    numbers between spaces or commas, in brackets or not, in text."""

    keep_event_types: list[str | int] | None = None
    """Only events of these types are kept; null keeps all."""

    drop_duplicates: bool = False
    """Whether of several events that agree in every column read only the first is kept."""

    session_gap_minutes: Annotated[float, Field(gt=0)] | None = None
    """Idle time after which a user's next event begins a new session; needed (and allowed) only
    where columns.session_id is null."""

    session_per_user: bool | None = None
    """Whether a session id is unique only within a user, as where web analytics number the visits
    of each visitor: true: user and session together are the session, USER:SESSION in what follows
    (a colon or backslash within the user after a backslash). null: the id alone is, and
    preprocessing warns where one has several users; false: the same without the warning."""

    _named = field_validator("extra_categorical", "extra_continuous", "vectors")(check_names)

    def remedy(self, reasons: Mapping[str, int], bad: int) -> str | None:
        count = reasons.get(f"{self.columns.item_id}: missing", 0)
        if 2 * count < bad:
            return super().remedy(reasons, bad)
        return (
            f"Of these, {count:,} are events without an item, as searches are. To leave such out, "
            "name the column of their type (columns.event_type) and the types to keep "
            "(keep_event_types); else mend the log, or raise max_bad_fraction to leave these "
            "lines out."
        )

    @model_validator(mode="after")
    def _columns_agree(self) -> "ClickstreamSourceSettings":
        columns, whole = self.columns, self.layout == "sessions"
        if columns.timestamp is None and not whole:
            raise ValueError("columns.timestamp: expected a column, unless layout is sessions")
        if whole and self.session_gap_minutes is not None:
            raise ValueError("session_gap_minutes needs layout: events")
        if columns.session_id is None and not whole:
            needed = {
                "columns.user_id": columns.user_id,
                "session_gap_minutes": self.session_gap_minutes,
            }
            missing = [name for name, given in needed.items() if given is None]
            if missing:
                raise ValueError(f"without columns.session_id, give {' and '.join(missing)}")
        if columns.session_id is not None and self.session_gap_minutes is not None:
            raise ValueError("session_gap_minutes needs columns.session_id: null")
        if self.session_per_user:
            for name in ("session_id", "user_id"):
                if getattr(columns, name) is None:
                    raise ValueError(f"session_per_user needs columns.{name}")
        if self.keep_event_types is not None and columns.event_type is None:
            raise ValueError("keep_event_types needs columns.event_type")
        names = [column.name for column in event_columns(self)]
        twice = {name for name in names if names.count(name) > 1}
        cut = columns.session_id is None and not whole
        if twice or (cut and "session_id" in names):
            raise ValueError(f"two columns would be called {', '.join(twice) or 'session_id'}")
        unknown = [name for name in self.types if name not in names]
        if unknown:
            raise ValueError(f"types.{unknown[0]}: no such column; read are {', '.join(names)}")
        return self


def made_columns(settings: ClickstreamSourceSettings) -> set[str]:
    """Columns that the log does not have and that are made where its rows are unfolded."""
    if settings.layout == "events":
        return set()
    return {name for name in ("session_id", "timestamp") if not getattr(settings.columns, name)}


def event_columns(settings: ClickstreamSourceSettings) -> list[Column]:
    """The columns to read, in the order of the output."""
    made = made_columns(settings)
    needed = {name for name in REQUIRED if getattr(settings.columns, name) is not None} | made
    if settings.session_gap_minutes is not None or settings.session_per_user:
        needed.add("user_id")
    columns = [
        Column(name, source or name, kind, f"columns.{name}", required=name in needed)
        for name, kind in KINDS.items()
        if (source := getattr(settings.columns, name)) is not None or name in made
    ]
    for setting, kind in (
        ("extra_categorical", "category"),
        ("extra_continuous", "number"),
        ("vectors", "vector"),
    ):
        columns += [Column(name, name, kind, setting) for name in getattr(settings, setting)]
    return columns
