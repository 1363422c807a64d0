"""What the settings block of every model has, whatever its family."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from core.settings import Settings


class ModelSettings(Settings):
    """Base of every model's settings.

    ``engine_defaults``: what this kind of model starts from in training, where that is otherwise
    than for its family; what a settings file says under ``train`` goes over it.
    """

    engine_defaults: ClassVar[Mapping[str, Any]] = {}

    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of the recipe's ``train`` block that are otherwise for this model."""
