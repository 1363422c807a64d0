"""Click models, one a file: what each needs is its settings class and its ``build`` function."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from core.errors import UserError
from core.settings import Settings
from training.ranking import dlrm

if TYPE_CHECKING:
    from core.merlin import Schema
    from training.ranking.click_model import ClickModel


class Entry(NamedTuple):
    """A model that ``ranking.model`` can name."""

    settings: type[Settings]
    build: Callable[["Schema", Settings], "ClickModel"]


MODELS: dict[str, Entry] = {
    "dlrm": Entry(dlrm.DLRMSettings, dlrm.build),
}


def build(name: str, schema: "Schema", settings: Settings, seed: int | None = None) -> "ClickModel":
    """The model ``name`` for the columns of ``schema``.

    Args:
        seed: of the initial weights; None: they come from torch's generator as it stands.

    Raises:
        UserError: an unknown name, or columns that the model needs and the schema lacks.
    """
    if name not in MODELS:
        raise UserError(f"ranking.model: {name!r} is unknown; known: {', '.join(MODELS)}")
    if seed is not None:
        from training.engine import seed_all

        seed_all(seed)
    return MODELS[name].build(schema, settings)
