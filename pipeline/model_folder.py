"""A trained model's folder, as later stages read it: safe from a stranger.

``model.json`` vouches for the weights. Its settings say what is built, within what a model of so
many weights may take.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from core import strict
from core.errors import UserError
from core.settings import Settings
from core.strict import Record, checked, printable, read_plain
from core.sums import Contents
from pipeline.feature_folder import features_identity
from pipeline.sections import MODELS, settings_class

MODEL_FILE, WEIGHTS_FILE, HISTORY_FILE = "model.json", "model.safetensors", "history.csv"


class TrainedWith(Record):
    """What the building of a model needs of the settings that it was trained with."""

    seed: Annotated[int, Field(ge=0)]
    tables_out_of_core: bool = False


class ModelRecord(Record):
    """What ``model.json`` has to hold."""

    recipe: Literal["ranking", "sessions", "interactions"]
    model: str
    settings: dict[str, Any]
    train: TrainedWith
    features: str
    parameters: int
    rows: int


def open_model(folder: str | Path) -> Contents:
    """The finished model in a folder.

    Raises:
        UserError: no training finished there, or ``model.json`` is altered.
    """
    return Contents(folder, MODEL_FILE, "train", links=True)


def load_model(
    folder: str | Path,
    schema: Any,
    features: str | Path | None = None,
    contents: Contents | None = None,
    scratch: str | Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """A trained model with its weights, all in memory, and what ``model.json`` says of it.

    Args:
        features: those that it must have been trained on; None: any with this schema.
        contents: of ``folder``, where another manifest than ``model.json`` vouches for its files.
        scratch: where tables that were trained out of core are mapped; None: in ``folder``, or,
            where that cannot be written, among temporary files.

    Raises:
        UserError: there is none, it was trained on other features than ``features``, or a file is
            altered or not what training writes.
        Replaced: the folder was replaced meanwhile.
    """
    folder = Path(folder)
    of_its_own = contents is None
    contents = contents or open_model(folder)
    with contents.watched():
        path = contents.manifest if of_its_own else contents.check(MODEL_FILE)
        record = contents.record if of_its_own else read_plain(path)
        about = checked(ModelRecord, record, path)
        if features is not None and about.features != features_identity(features):
            raise UserError(
                f"{folder}: this model was trained on other features than {features} holds: its "
                "codes would mean other values. Run 'merlin-pipeline train' on these features first"
            )
        return _loaded(folder, path, about, schema, contents, scratch), record


def _loaded(
    folder: Path,
    path: Path,
    record: ModelRecord,
    schema: Any,
    contents: Contents,
    scratch: str | Path | None,
) -> Any:
    """The model, built by its record, with the weights."""
    from core.tensors import TensorFile
    from training import allocation
    from training.checkpoints import load_weights
    from training.tables.storage import tables_in

    settings = model_settings(record.recipe, record.model, record.settings, path)
    # A safetensors file's header is bounded, and its tensors are as large as the file.
    contents.check(WEIGHTS_FILE)
    weights = TensorFile(folder / WEIGHTS_FILE)
    if not scratch:
        scratch = folder if os.access(folder, os.W_OK) else tempfile.gettempdir()
    mapped = tables_in(scratch if record.train.tables_out_of_core else None)
    bound = allocation.bounded(weights.nbytes, len(weights) + len(schema))
    with mapped, _naming(path), bound:
        model = build(record.recipe, record.model, schema, settings, record.train.seed)
    load_weights(folder / WEIGHTS_FILE, model, verified=contents.files is not None)
    model.eval()
    return model


def model_settings(recipe: str, name: str, settings: Any, path: Path) -> Settings:
    """The settings of a model as ``path`` has them.

    Raises:
        UserError: there is no such model, or one of them is wrong.
    """
    if name not in MODELS[recipe]:
        raise UserError(
            f"{path}: model: unknown model {name!r}; known: {', '.join(MODELS[recipe])}"
        )
    return strict.settings(settings_class(f"{recipe}.{name}"), settings, f"{path}: settings")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What goes wrong while a model is built names the file that asked for it."""
    from training.allocation import TooLarge

    try:
        yield
    except TooLarge as error:
        raise UserError(
            f"{path}: settings: they ask for a larger model than {WEIGHTS_FILE} holds ({error})"
        ) from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # whatever the libraries below make of settings that nobody tried
        raise UserError(
            f"{path}: settings: no model can be built of them and this schema "
            f"({type(error).__name__}: {printable(error)})"
        ) from error


def build(recipe: str, name: str, schema: Any, settings: Settings, seed: int) -> Any:
    """The untrained model; its initial weights come from ``seed``."""
    from training import interactions, ranking, sessions
    from training.engine import seed_all

    seed_all(seed)
    families = {"ranking": ranking, "sessions": sessions, "interactions": interactions}
    return families[recipe].build(name, schema, settings)
