"""A folder of features, as the stages after preprocess read it."""

from pathlib import Path

from core.sums import Contents

MANIFEST, SCHEMA, PLAN = "manifest.json", "schema.json", "plan.json"
VIEW_OF = "view_of"
"""Key of the manifest of a part of other features, whose identity it has: theirs."""


def open_features(features: str | Path) -> Contents:
    """The finished features in a folder: every file is there with the size that was written.

    Raises:
        UserError: no preprocess finished there, or a file is missing or altered.
    """
    contents = Contents(features, MANIFEST, "preprocess", links=True)
    contents.check_sizes()
    for name in (SCHEMA, PLAN):
        contents.check(name)
    return contents
