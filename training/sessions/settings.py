"""Settings of the session models and of their evaluation, apart from them so that reading them does
not import torch."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from core.settings import Settings


class XLNetSettings(Settings):
    """The shape of the network and how it is trained."""

    masking: str = "mlm"
    """Training task: mlm (masked events). XLNet attends both ways, so causal masking is refused."""
    d_model: int = Field(64, ge=4)
    """Width of the transformer and of the item embeddings, whose table is also the output layer."""
    layers: int = Field(2, ge=1)
    """Transformer layers."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide d_model."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations dropped in training."""
    max_length: int = Field(20, ge=2)
    """Events before the one to predict that the model sees; older ones are left out."""
    mlm_probability: float = Field(0.0, ge=0, lt=1)
    """Share of the earlier events hidden in training, besides the last event, which always is.
    More gives more targets a pass, but each from less than the model sees when it is asked."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target's probability spread evenly over all items."""
    temperature: float = Field(0.3, gt=0)
    """Scores are divided by this before the softmax; low values make small embeddings go far, so
    that training starts faster."""
    negatives: int | None = Field(None, ge=0)
    """Items that each target is compared with in training, drawn log-uniformly over the frequency
    order and corrected for it; 0 compares with all. null: all of up to 10,000 items, else 2,000."""
    side_features: tuple[str, ...] | None = None
    """Input columns beside the item; null takes all that the features have, [] none."""
    side_dim: int = Field(16, ge=1)
    """Embedding width of each categorical side feature."""
    embedding_std: float = Field(0.05, gt=0)
    """Standard deviation of the embeddings at the start."""
    weight_std: float = Field(0.02, gt=0)
    """Standard deviation of the transformer's weights at the start."""

    @field_validator("masking")
    @classmethod
    def _masking_fits(cls, masking: str) -> str:
        if masking in ("clm", "causal"):
            raise ValueError(
                "XLNet attends to later events too, so with causal masking it sees the answer; "
                "expected mlm"
            )
        if masking != "mlm":
            raise ValueError("expected mlm")
        return masking

    @model_validator(mode="after")
    def _heads_fit(self) -> "XLNetSettings":
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(
                f"d_model must be even and a multiple of heads ({self.d_model} and {self.heads})"
            )
        return self


class PopularSettings(Settings):
    """The popularity floor has nothing to set."""


class SessionEvaluationSettings(Settings):
    """What is asked of a session model, and how the answers are counted.

    All training items are ranked (never padding, null or out-of-vocabulary codes), and ties count
    against the model. Items unseen in training are dropped from the sessions first, and sessions of
    which fewer than two events are left are skipped.
    """

    protocol: Literal["per_step", "last_item"] = "per_step"
    """per_step asks for every next event of each session, last_item only for the last one."""
    ks: tuple[int, ...] = (10, 20)
    """Lengths of the recommendation list for recall@k, ndcg@k and mrr@k."""
    drop_repeats: bool = True
    """Whether an event that shows the same item as the one before it is left out."""
    exclude_last_item: bool = True
    """Whether the item just viewed is never recommended; only with drop_repeats, as without it that
    item can be the answer."""
    scores_mb: int = Field(128, ge=1)
    """Memory for the scores of one chunk, in MB; a chunk has as many prefixes as fit."""

    @field_validator("ks")
    @classmethod
    def _ks_fit(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if not ks or min(ks) < 1:
            raise ValueError("expected at least one length, each at least 1")
        return ks
