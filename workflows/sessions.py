"""The sessions workflow: events in session order → one row a session of ragged feature lists."""

from pydantic import Field

from core.merlin import Tags, Workflow, ops
from core.settings import Settings
from workflows.ops import AsFloat, Categorify, Normalize, SessionClock, SessionLists

ITEM = "item_id"
PRICE = "price"
KEYS = ["session_id", "timestamp"]


class SessionsWorkflowSettings(Settings):
    """How clickstream events become session features."""

    categorical: tuple[str, ...] = ("category", "brand")
    """Columns encoded beside item_id, where the raw log has them."""
    continuous: tuple[str, ...] = ("price",)
    """Columns standardised, where the raw log has them; missing values become the mean."""
    log_columns: tuple[str, ...] = ("price",)
    """Those of ``continuous`` to which log(1 + x) is applied first (not for values below zero)."""
    item_freq_threshold: int = Field(1, ge=1)
    """An item seen fewer times in the training sessions gets the out-of-vocabulary code."""
    side_freq_threshold: int = Field(1, ge=1)
    """The same for the other categorical columns."""
    max_items: int = Field(0, ge=0)
    """Most item codes, the three reserved ones included; 0 means no cap."""


def build(settings: SessionsWorkflowSettings, columns: list[str]) -> Workflow:
    """The unfitted NVTabular workflow for a raw log that has ``columns``.

    Out come ``session_id``, ``start``, and as ragged lists of equal length: ``item_id`` and the
    other categorical columns as int32 codes, the continuous ones standardised, ``hour_sin``,
    ``hour_cos`` and ``gap`` (see :class:`workflows.ops.SessionClock`) as float32.
    """
    items = (
        [ITEM]
        >> Categorify(settings.item_freq_threshold, settings.max_items)
        >> ops.AddMetadata(tags=[Tags.ITEM_ID, Tags.ITEM])
    )
    features = KEYS + items
    side = [name for name in settings.categorical if name in columns]
    if side:
        features = features + (side >> Categorify(settings.side_freq_threshold))
    present = [name for name in settings.continuous if name in columns]
    logged = [name for name in present if name in settings.log_columns]
    plain = [name for name in present if name not in settings.log_columns]
    normalised = []
    if logged:
        normalised.append(logged >> ops.Clip(min_value=0) >> ops.LogOp())
    if plain:
        normalised.append(plain >> AsFloat())
    for branch in normalised:
        features = features + (branch >> Normalize() >> ops.FillMissing(fill_val=0.0))
    clock = KEYS >> SessionClock()
    features = features + (clock >> Normalize())
    return Workflow(features >> SessionLists())
