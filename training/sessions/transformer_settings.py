"""Settings of the models that Transformers4Rec carries, apart from them so that reading them does
not import torch."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from training.sessions.neural_settings import AttentionSettings

NAMES = {"masked": "mlm", "causal": "clm", "permutation": "plm", "replacement": "rtd"}
"""Transformers4Rec's second names of the training tasks."""


class TransformerSettings(AttentionSettings):
    """The shape of a network that Transformers4Rec carries."""

    maskings: ClassVar[tuple[str, ...]] = ()
    """The training tasks that fit the network."""
    misfits: ClassVar[Mapping[str, str]] = {}
    """Why others do not, where there is more to it than that they are not made for it."""

    masking: str = "mlm"
    """Training task."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide d_model."""
    similarity: Literal["dot", "cosine"] = "dot"
    """How a prefix and an item are compared."""
    temperature: float = Field(0.3, gt=0)
    """Scores are divided by this before the softmax; low values make small embeddings go far, so
    that training starts faster."""
    weight_std: float = Field(0.02, gt=0)
    """Standard deviation of the transformer's weights at the start."""

    @field_validator("masking")
    @classmethod
    def _masking_fits(cls, masking: str) -> str:
        name = NAMES.get(masking, masking)
        if name not in cls.maskings:
            expected = " or ".join(cls.maskings)
            why = f"{cls.misfits[name]}; " if name in cls.misfits else ""
            raise ValueError(f"{why}expected {expected}")
        return name

    @model_validator(mode="after")
    def _width_fits(self) -> "TransformerSettings":
        if self.d_model % 2:
            raise ValueError(f"d_model must be even, got {self.d_model}")
        return self


class MaskedSettings(TransformerSettings):
    """Of networks that attend both ways, and learn by guessing hidden events."""

    maskings: ClassVar[tuple[str, ...]] = ("mlm", "rtd")
    misfits: ClassVar[Mapping[str, str]] = {
        "clm": "this network attends to later events too, so with causal masking it sees the answer"
    }

    masking: str = "mlm"
    """Training task: mlm (hidden events are guessed); rtd (besides, guesses are put in their place,
    and every event is judged whether it was replaced)."""
    mlm_probability: float = Field(0.0, ge=0, lt=1)
    """Share of the earlier events hidden in training, besides the last event, which always is.
    More gives more targets a pass, but each from less than the model sees when it is asked."""
    sequences: Literal["every_step", "session"] = "every_step"
    """What trains: each step of a session as a sequence of its own, which is what the model is
    asked; or the whole session as one sequence, in stretches of max_length steps, which is cheaper
    where sessions are long and wants a higher mlm_probability."""
    rtd_weight: float = Field(1.0, ge=0)
    """With masking: rtd, weight of the loss of telling replaced events from true ones."""


class XLNetSettings(MaskedSettings):
    """XLNet's shape, and how it is trained."""

    maskings: ClassVar[tuple[str, ...]] = ("mlm", "plm", "rtd")

    masking: str = "mlm"
    """Training task: mlm (hidden events are guessed); plm (events are guessed one after another in
    a random order, the last one last); rtd (mlm, and besides guesses are put in the place of hidden
    events, and every event is judged whether it was replaced)."""
    plm_probability: float = Field(0.2, ge=0, lt=1)
    """With masking: plm, share of the earlier events that are guessed besides the last one."""


class BERT4RecSettings(MaskedSettings):
    """BERT4Rec's shape, and how it is trained."""


class ElectraSettings(MaskedSettings):
    """ELECTRA's shape, and how it is trained."""

    masking: str = "rtd"
    """Training task: rtd (hidden events are guessed, the guesses put in their place, and every
    event is judged whether it was replaced); mlm (only the first)."""


class AlbertSettings(MaskedSettings):
    """ALBERT's shape, and how it is trained."""


class GPT2Settings(TransformerSettings):
    """GPT-2's shape, and how it is trained."""

    maskings: ClassVar[tuple[str, ...]] = ("clm",)
    misfits: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("mlm", "plm", "rtd"),
        "this network attends to earlier events only and guesses the next one",
    )

    masking: str = "clm"
    """Training task: clm (every event is guessed from those before it, all in one pass)."""
