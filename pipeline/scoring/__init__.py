"""Raw logs in, answers out, from an exported bundle alone."""

from pipeline.scoring.bundle import Bundle
from pipeline.scoring.clicks import score
from pipeline.scoring.next_items import recommend

__all__ = ["Bundle", "recommend", "score"]
