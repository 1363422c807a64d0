"""A folder of features, as the stages after preprocess read it."""

from pathlib import Path
from typing import Any

from core.artifacts import digest
from core.errors import UserError
from core.sums import CHECKSUM, Contents, read_manifest

MANIFEST, SCHEMA, PLAN = "manifest.json", "schema.json", "plan.json"
VIEW_OF = "view_of"
"""Key of the manifest of a part of other features, whose identity it has: theirs."""


def open_features(features: str | Path, recipe: str | None = None) -> Contents:
    """The finished features in a folder: every file is there with the size that was written.

    Args:
        recipe: the one that they have to be of; None: any.

    Raises:
        UserError: no preprocess finished there, a file is missing or altered, or they are another
            recipe's.
    """
    contents = Contents(features, MANIFEST, "preprocess", links=True)
    if contents.files is not None and PLAN not in contents.files:
        what = "a raw log, no features" if "shards" in contents.record else "no features"
        raise UserError(
            f"{features}: {what}; name a folder that 'merlin-pipeline preprocess' wrote"
        )
    made_for = contents.record.get("recipe", recipe)
    if recipe is not None and made_for != recipe:
        raise UserError(f"{features}: features of the recipe '{made_for}', not of '{recipe}'")
    contents.check_sizes()
    for name in (SCHEMA, PLAN):
        contents.check(name)
    return contents


def features_identity(features: str | Path) -> str:
    """What the features were made from and what they hold, as one hash."""
    features = Path(features)
    record = read_manifest(features / MANIFEST)
    known = record.get(VIEW_OF) or record.get(CHECKSUM)
    return known or digest(features / PLAN, features / MANIFEST)


def read_schema(features: str | Path, contents: Contents | None = None) -> Any:
    """The schema of a features folder.

    Args:
        contents: of the folder, where it is open already, or where another manifest than that of
            the features vouches for it.

    Raises:
        UserError: no preprocess finished there, or a file is altered or no schema.
        Replaced: the folder was replaced meanwhile.
    """
    from core import schemas

    contents = contents or Contents(features, MANIFEST, "preprocess", links=True)
    with contents.watched():
        return schemas.read_schema(contents.check(SCHEMA))
