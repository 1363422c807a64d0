"""What is compared: entries, seeds, and the metrics that the tables show."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from core.settings import Settings
from pipeline.sections import MODELS
from training.ranking.settings import LowRankSettings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class AfterSettings(Settings):
    """What is done with the trained model before it is judged."""

    method: Literal["svd", "nmf"] = "svd"
    """How its MLP layers become products of two thin ones: truncated singular value decomposition,
    or non-negative factorization."""

    low_rank: LowRankSettings
    """The ranks."""

    train: dict[str, Any] | None = None
    """Fine-tuning: settings that go over those the entry was trained with; null: none at all."""

    @model_validator(mode="after")
    def _ranks_are_asked_for(self) -> "AfterSettings":
        if not self.low_rank.asked_for:
            raise ValueError("low_rank: give one of fraction, ranks and parameters")
        return self


class EntrySettings(Settings):
    """One line of the comparison: a model and how it is trained."""

    model: str | None = None
    """The model; null: the one that is called like the entry."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the model, over those of its own block."""

    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of the training, over those of the recipe and of the model; the seed is not one."""

    after: AfterSettings | None = None
    """Low rank after training; null: none."""

    @field_validator("train")
    @classmethod
    def _the_seed_is_not_here(cls, train: dict[str, Any]) -> dict[str, Any]:
        if "seed" in train:
            raise ValueError("the seed is set by compare.seeds, for all entries alike")
        return train


def _named(value: Any) -> Any:
    """A list of models → entries that are called like them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        names = [str(name) for name in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands there twice")
        return {name: {} for name in names}
    if isinstance(value, Mapping):
        return {str(name): {} if entry is None else entry for name, entry in value.items()}
    return value


class CompareSettings(Settings):
    """What is compared, and how often."""

    models: ClassVar[Sequence[str]] = ()
    """Those that an entry can name."""

    entries: Annotated[dict[str, EntrySettings], BeforeValidator(_named)] = Field(
        default_factory=dict
    )
    """What is compared: a list of models, or a mapping of names to ``model``, ``settings`` (over
    the model's block), ``train`` (over the recipe's and the model's) and ``after`` (low rank taken
    from the trained model, and fine-tuning). Empty: every model that suits the features."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((1, 2, 3), min_length=1)
    """Each entry is trained once with each."""

    splits: tuple[Literal["train", "valid", "test"], ...] = Field(
        ("train", "valid", "test"), min_length=1
    )
    """What every model is judged on; the tables are of the last one. Leave test out while settings
    are chosen: put in later, the trained models are judged on it without being trained again."""

    metrics: tuple[str, ...] = ()
    """Metrics that the tables and plots show, in this order; empty: all."""

    inference_batch_size: int = Field(1024, ge=1)
    """Rows of a batch when the time of a prediction is taken."""

    inference_rows: int = Field(16384, ge=1)
    """Test rows, at most, on which that is done."""

    @field_validator("entries")
    @classmethod
    def _known(cls, entries: dict[str, EntrySettings]) -> dict[str, EntrySettings]:
        for name, entry in entries.items():
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} names folders and stages: expected letters, digits, _ and -"
                )
            if (entry.model or name) not in cls.models:
                raise ValueError(
                    f"{name}: unknown model {entry.model or name!r}; known: {', '.join(cls.models)}"
                )
        return entries

    @field_validator("seeds", "splits")
    @classmethod
    def _different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("expected each one once")
        return values

    @field_validator("splits")
    @classmethod
    def _in_order(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(split for split in ("train", "valid", "test") if split in splits)


class RankingCompareSettings(CompareSettings):
    """Of click models."""

    models: ClassVar[Sequence[str]] = MODELS["ranking"]


class SessionsCompareSettings(CompareSettings):
    """Of session models. The training split is left out by default: ranking every item after each
    of its steps takes longer than training."""

    splits: tuple[Literal["train", "valid", "test"], ...] = Field(("valid", "test"), min_length=1)
    """What every model is judged on; the tables are of the last one. Leave test out while settings
    are chosen: put in later, the trained models are judged on it without being trained again."""

    models: ClassVar[Sequence[str]] = MODELS["sessions"]
