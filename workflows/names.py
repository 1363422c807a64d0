"""Columns that a workflow makes, against those of the log and against each other; their types."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from core.errors import UserError
from core.names import check_column

Named = Iterable[tuple[str, str]]
"""Names of columns, and what each of them is: a setting, or what is made by which setting."""
NUMBERS = ("int", "uint", "float", "double", "halffloat", "bool", "decimal")
LISTS = ("list", "large_list", "fixed_size_list")
FLOATS = ("float", "double", "halffloat", "decimal")


def check_names(own: Named, made: Named, keys: Named = ()) -> None:
    """Checks that no two columns would have one name.

    Args:
        own: columns of the log, with the setting that names each.
        made: columns that are made, with what makes each.
        keys: of vocabularies of several columns, with what makes each; no column is called so.

    Raises:
        ValueError: two would, naming both; or a name that no tool takes.
    """
    known: dict[str, str] = {}
    for name, setting in own:
        try:
            check_column(name)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None
        known[name] = f"the log's column {name!r} ({setting})"
    for name, what in (*made, *keys):
        if name in known:
            raise ValueError(
                f"two columns would be called {name!r}: {known[name]}, and {what}; rename the "
                "log's column, or leave one of the two out"
            )
        known[name] = what


def of_each(names: Iterable[str], setting: str, *forms: str) -> Iterator[tuple[str, str]]:
    """What a setting makes of each column; a form is the made name with ``{}`` for the column's."""
    for name in names:
        for form in forms:
            yield form.replace("{}", name), f"what {setting} makes of {name!r}"


def of_group(group: Iterable[str], setting: str, form: str = "{}") -> tuple[str, str]:
    """What a setting makes of several columns together."""
    names = list(group)
    return form.replace("{}", "_X_".join(names)), f"what {setting} makes of {names}"


def of_vectors(vectors: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The columns of vectors, one a dimension."""
    for name, width in vectors.items():
        for dimension in range(width):
            yield f"{name}_{dimension}", f"a dimension of the vectors {name!r}"


def check_types(settings: Any, types: Mapping[str, str], where: str) -> None:
    """Checks that the columns of a raw log are of the types that a workflow's settings take.

    Args:
        settings: of a workflow.
        types: Arrow's names of the columns' types.
        where: these settings, for messages.

    Raises:
        UserError: one is not, or two that share a vocabulary differ.
    """
    for setting, starts, wanted in (
        ("labels", NUMBERS, "numbers"),
        ("continuous", NUMBERS, "numbers"),
        ("vectors", LISTS, "lists of numbers"),
    ):
        for name in getattr(settings, setting, ()):
            if not types.get(name, starts[0]).startswith(starts):
                raise UserError(
                    f"{where}.{setting}: takes {wanted}, and {name} was read as {types[name]}; "
                    "change the setting, or how ingest reads the column"
                )
    for name in getattr(settings, "multi_valued", ()):
        kind = types.get(name, "list<")
        if not kind.startswith(("list<", "large_list<")) or any(
            f": {one}" in kind for one in FLOATS
        ):
            raise UserError(
                f"{where}.multi_valued: takes lists of integers and texts, and {name} was read as "
                f"{kind}; name it among the multi_valued columns of the source and run ingest again"
            )
    for name in getattr(settings, "categorical", ()):
        if types.get(name, "").startswith(FLOATS + LISTS):
            raise UserError(
                f"{where}.categorical: takes integers and texts, and {name} was read as "
                f"{types[name]}; name it among the categorical columns of the source and run "
                "ingest again, or take it as continuous"
            )
    for group in settings.shared_vocabularies:
        known = {name: types[name] for name in group if name in types}
        if len({_element(kind) for kind in known.values()}) > 1:
            kinds = ", ".join(f"{name} ({kind})" for name, kind in known.items())
            raise UserError(
                f"{where}.shared_vocabularies: the columns of a group need one type, and the log "
                f"has {kinds}; have ingest read all as text, by 'string' for each in the source "
                "setting 'types', or leave the group out"
            )


def _element(kind: str) -> str:
    """Arrow's name of a type, or of that of a list's values."""
    return kind.rpartition(": ")[2].removesuffix(">").removeprefix("large_")
