"""Settings of the session models and of their evaluation, apart from them so that reading them does
not import torch."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from core.settings import Settings

USUAL_LENGTH = 20


def shown_length(ks: Sequence[int]) -> int:
    """Of the list lengths ``ks`` the one whose metrics stop training and are shown first: the
    greatest up to 20, or the least where all are longer."""
    return max((k for k in ks if k <= USUAL_LENGTH), default=min(ks))


class SessionEvaluationSettings(Settings):
    """What is asked of a session model, and how the answers are counted.

    All training items are ranked (never padding, null or out-of-vocabulary codes), and ties count
    against the model. Items unseen in training are dropped from the sessions first, and sessions of
    which fewer than two events are left are skipped.
    """

    protocol: Literal["per_step", "last_item", "leave_one_out"] = "per_step"
    """per_step asks for every next event of each session, last_item only for the last one that is
    left; leave_one_out, for features that are split so, for the last event of each sequence, and
    skips sequences whose last event is unseen in training."""
    ks: tuple[int, ...] = (10, 20)
    """Lengths of the recommendation list for metrics such as recall@k. Training stops by ndcg at
    the greatest length up to 20 (the least, where all are longer), which is shown first too."""
    metrics: tuple[Literal["recall", "ndcg", "mrr", "hit", "map"], ...] = Field(
        ("recall", "ndcg", "mrr", "hit", "map"), min_length=1
    )
    """Metrics of the ranks. Each prediction has one right answer, so hit is recall and map is mrr:
    evaluate writes them only where recall and mrr are not named too."""
    drop_repeats: bool = True
    """Whether an event that shows the same item as the one before it is left out."""
    exclude_last_item: bool = True
    """Whether the item just viewed is never recommended; only with drop_repeats, as without it that
    item can be the answer."""
    exclude_seen: bool = False
    """Whether no item that the session held before is recommended, as far back as features go
    (``preprocess.sessions.max_length``). Where one is the answer all the same, it counts as
    missed."""
    lists: bool = True
    """Whether the lists themselves are looked at: coverage, popularity bias, novelty."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Probability that an interval of the metrics holds the true mean."""
    scores_mb: int = Field(128, ge=1)
    """Memory for the scores of one chunk, in MB; a chunk has as many prefixes as fit."""

    @field_validator("ks")
    @classmethod
    def _ks_fit(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if not ks or min(ks) < 1:
            raise ValueError("expected at least one length, each at least 1")
        return ks
