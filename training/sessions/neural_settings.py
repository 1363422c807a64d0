"""Settings of the neural session models of our own: what they share, then what each one adds."""

from typing import Literal

from pydantic import Field, model_validator

from training.model_settings import ModelSettings

ALL_ITEMS_AT_MOST = 10_000
"""Where the catalogue is larger, ``loss: auto`` draws the items that targets are compared with."""
EVENLY_DRAWN = ("gbce", "bce")
"""Losses that are defined for negatives of equal probability."""


class NextItemSettings(ModelSettings):
    """How events become vectors, vectors scores, and scores a loss."""

    d_model: int = Field(64, ge=2)
    """Width of the item vectors and of what the model makes of a prefix."""
    max_length: int = Field(20, ge=2)
    """Events before the one to predict that the model sees; older ones are left out. Longer
    sessions are trained on in stretches of as many steps, so that all of their steps train."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations dropped in training, after the inputs and inside the network."""
    item_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the values of the vectors that prefixes are compared with dropped in training."""
    loss: Literal["auto", "cross_entropy", "sampled_softmax", "gbce", "bce", "bpr_max"] = "auto"
    """cross_entropy: over all items; sampled_softmax: over drawn items, with log-q correction;
    gbce: binary cross-entropy calibrated for the share of items drawn (Petrov & Macdonald 2023);
    bce: the same with one negative a target, uncalibrated (Kang & McAuley 2018); bpr_max: Hidasi &
    Karatzoglou 2018; auto: cross_entropy up to 10,000 items, sampled_softmax beyond."""
    negatives: int = Field(4096, ge=1)
    """Items drawn a batch that each of its targets is compared with; not for cross_entropy (all)
    and bce (one a target)."""
    sampling_power: float | None = Field(None, ge=0, le=1)
    """Items are drawn in proportion to their training events to this power: 0 evenly, 1 by
    popularity. null: 0.5, for gbce and bce 0."""
    log_q: bool = True
    """Whether sampled_softmax corrects scores for how probably an item is drawn."""
    gbce_t: float = Field(0.75, ge=0, le=1)
    """Calibration of gbce: 0 plain binary cross-entropy, 1 fully calibrated probabilities."""
    bpr_max_penalty: float = Field(1.0, ge=0)
    """Weight of bpr_max's penalty on the scores of negatives."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target's probability spread evenly over the items it is compared with; for
    cross_entropy and sampled_softmax."""
    popularity_debias: float = 0.0
    """Logit adjustment (Menon et al. 2021): training adds this times the log of an item's share of
    events to its score, scoring does not. Above 0 favours rare items, below 0 popular ones."""
    similarity: Literal["dot", "cosine"] = "cosine"
    """How a prefix and an item are compared."""
    temperature: float = Field(0.07, gt=0)
    """Scores are divided by this. Cosines need a low one, about 0.1."""
    mixtures: int = Field(1, ge=1)
    """Vectors that a prefix asks with, each with a weight: a score is the log of the weighted sum
    of what they give (after Yang et al. 2018; one normalisation for all components, no tanh). More
    than 1 is for sessions whose next item has several explanations; scores cost as many times
    more."""
    weight_tying: bool = True
    """Whether one table holds the item vectors that are read and those that are compared with."""
    embedding_std: float = Field(0.05, gt=0)
    """Standard deviation of the embeddings at the start."""
    drop_repeats: bool = True
    """Whether, as in evaluation, an event on the same item as the one before it is left out, and
    the item just viewed is no candidate."""
    side_features: tuple[str, ...] | None = ()
    """Input columns beside the item; null takes all that the features have, [] none."""
    side_dim: int = Field(16, ge=1)
    """Embedding width of each categorical side feature."""
    side_fusion: Literal["concat", "sum", "gate"] = "concat"
    """How side features meet the item's vector: concat: joined and projected; sum: each projected
    and added; gate: their projection added as far as a gate, learned from both, lets it pass."""
    item_features: tuple[str, ...] = ()
    """Columns that describe the item (category, brand, price): the vector of an item is its
    own plus those of its features in training, wherever it stands (Kula 2015)."""

    def loss_over(self, num_items: int) -> str:
        """What ``loss`` means for a catalogue of that many codes, the reserved ones included."""
        from training.sessions.ragged import FIRST_ITEM  # imports torch

        if self.loss != "auto":
            return self.loss
        items = num_items - FIRST_ITEM
        return "cross_entropy" if items <= ALL_ITEMS_AT_MOST else "sampled_softmax"

    @model_validator(mode="after")
    def _loss_fits(self) -> "NextItemSettings":
        if self.loss in EVENLY_DRAWN and self.sampling_power:
            raise ValueError(
                f"sampling_power {self.sampling_power}: loss {self.loss} is defined for items "
                "drawn evenly; set it to 0 or null"
            )
        smoothed = ("auto", "cross_entropy", "sampled_softmax")
        for name in ("label_smoothing", "popularity_debias"):
            if getattr(self, name) and self.loss not in smoothed:
                raise ValueError(f"{name}: only for loss {', '.join(smoothed)}, not {self.loss}")
        twice = {name for name in self.side_features or () if name in self.item_features}
        if twice:
            raise ValueError(
                f"{', '.join(sorted(twice))}: name it in side_features or in item_features"
            )
        return self


class AttentionSettings(NextItemSettings):
    """The size of a transformer."""

    layers: int = Field(2, ge=1)
    """Transformer layers."""
    heads: int = Field(2, ge=1)
    """Attention heads; must divide d_model."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "AttentionSettings":
        if self.d_model % self.heads:
            raise ValueError(
                f"d_model must be a multiple of heads ({self.d_model} and {self.heads})"
            )
        return self


class SASRecSettings(AttentionSettings):
    """A transformer whose events attend to themselves and to earlier ones."""

    feed_forward: int = Field(4, ge=1)
    """Width of the layers between attention, in multiples of d_model."""
    norm: Literal["pre", "post"] = "pre"
    """Where layer normalisation stands: before each block, or after adding its result."""
    weight_std: float = Field(0.02, gt=0)
    """Standard deviation of the network's weights at the start."""


class GRU4RecSettings(NextItemSettings):
    """A recurrent network over the events of a session."""

    layers: int = Field(1, ge=1)
    """Recurrent layers, each of width d_model."""
    embedding_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the input vectors' values dropped in training; ``dropout`` is that of the states."""


class CORESettings(AttentionSettings):
    """A session as a weighted mean of its items' vectors."""

    weights: Literal["attention", "mean"] = "attention"
    """attention: weights from a transformer over the events; mean: equal ones."""
    item_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the values of the vectors that prefixes are compared with dropped in training."""
