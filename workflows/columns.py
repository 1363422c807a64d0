"""What may be set for one column, and the branches of a workflow that come of it.

Used by the workflows of all recipes: a branch is an NVTabular node for the columns that are
treated alike.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from core.merlin import Tags, ops
from core.settings import Settings
from workflows.names import of_each, of_group
from workflows.ops import (
    AsFloat,
    Bucketize,
    Categorify,
    FillMedian,
    FirstValues,
    HashBucket,
    HashedCross,
    Normalize,
    NormalizeMinMax,
)
from workflows.ops.fill_clip import Clip, FillMissing, LogOp

Kind = Literal["categorical", "multi_valued", "continuous"]
CODED: tuple[Kind, ...] = ("categorical", "multi_valued")
"""Kinds that have vocabularies."""
VectorWidth = Annotated[int, Field(ge=1, le=65_536)]
"""Numbers of a vector: each becomes a column."""
CATEGORICAL_OPTIONS = ("freq_threshold", "max_size", "num_buckets")


BUCKET_SUFFIX = "_bucket"
MOST_BUCKETS = 1 << 30
"""Codes are 32-bit integers."""


class ColumnSettings(Settings):
    """How one column is treated, where otherwise than the rest. What is not given is as for all."""

    freq_threshold: int | None = Field(None, ge=1)
    """Categorical: a value seen fewer times in training gets an out-of-vocabulary code."""
    max_size: int | None = Field(None, ge=0)
    """Categorical: most codes, the reserved ones included; 0 means no cap."""
    num_buckets: int | None = Field(None, ge=1, le=MOST_BUCKETS)
    """Categorical: codes that out-of-vocabulary values share, by a hash of the value."""
    missing: float | Literal["median"] | None = None
    """Continuous: what a missing value becomes; median: that of the training rows."""
    clip_min: float | None = None
    """Continuous: smaller values become this one."""
    clip_max: float | None = None
    """Continuous: greater values become this one."""
    transform: Literal["log", "none"] | None = None
    """Continuous: log is log(1 + x), after clipping."""
    scale: Literal["standard", "minmax", "none"] | None = None
    """Continuous: standard is (x - mean) / deviation, minmax (x - min) / (max - min), over the
    training rows."""
    bucketize: tuple[float, ...] = ()
    """Continuous: rising boundaries of a further, categorical column ``NAME_bucket``."""

    @field_validator("bucketize")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(b <= a for a, b in itertools.pairwise(value)):
            raise ValueError("bucketize takes boundaries that rise")
        return value

    @model_serializer(mode="wrap")
    def _given_alone(self, whole: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # What was not given must not read as an explicit null when settings come back from a file.
        return {name: v for name, v in whole(self).items() if name in self.model_fields_set}

    @model_validator(mode="after")
    def _clips(self) -> "ColumnSettings":
        low, high = self.clip_min, self.clip_max
        if low is not None and high is not None and low >= high:
            raise ValueError(f"clip_min ({low}) is not below clip_max ({high})")
        return self


class CrossSettings(Settings):
    """One column made of the combinations of several: ``A_X_B``."""

    columns: tuple[str, ...] = Field(min_length=2)
    """The columns that are combined."""
    buckets: int = Field(100_000, ge=2, le=MOST_BUCKETS)
    """Codes that the combinations are hashed to."""


class VocabularySettings(Settings):
    """What the categorical columns of all recipes share."""

    columns: dict[str, ColumnSettings] = Field(default_factory=dict)
    """Settings of single columns, by name: over those for all."""
    shared_vocabularies: tuple[tuple[str, ...], ...] = ()
    """Groups of categorical columns of one type that have one vocabulary; their counts are added
    up."""
    hashing: dict[str, int] = Field(default_factory=dict)
    """Categorical columns without a vocabulary: the number of codes that values are hashed to."""
    crosses: tuple[CrossSettings, ...] = ()
    """Further columns made of combinations: ``columns`` and ``buckets`` each, or just the list of
    columns, such as [C2, C5]."""

    @field_validator("crosses", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [
            {"columns": entry}
            if isinstance(entry, list | tuple) and all(isinstance(name, str) for name in entry)
            else entry
            for entry in value
        ]

    @field_validator("hashing")
    @classmethod
    def _some_buckets(cls, value: dict[str, int]) -> dict[str, int]:
        few = [name for name, buckets in value.items() if buckets < 2]
        if few:
            raise ValueError(f"hashing.{few[0]} needs at least 2 codes")
        many = [name for name, buckets in value.items() if buckets > MOST_BUCKETS]
        if many:
            raise ValueError(f"hashing.{many[0]} has at most {MOST_BUCKETS:,} codes")
        return value

    def check_columns(self, kinds: Mapping[str, Kind]) -> None:
        """Checks that every named column exists and is of the kind that its options are for.

        Raises:
            ValueError: naming the setting and the column.
        """
        for name, given in self.columns.items():
            kind = kind_of(kinds, name, "columns")
            for option in given.model_fields_set:
                wanted = "categorical" if option in CATEGORICAL_OPTIONS else "continuous"
                if wanted != ("categorical" if kind in CODED else kind):
                    raise ValueError(
                        f"columns.{name}: {option} is for {wanted} columns, {name} is {kind}"
                    )
        for group in self.shared_vocabularies:
            if len(group) < 2:
                raise ValueError(f"shared_vocabularies: a group needs two columns, got {group}")
        self._check_categorical(kinds)

    def own_names(self) -> Iterator[tuple[str, str]]:
        """The log's columns that become features, each with the setting that names it."""
        for setting in ("labels", "continuous", "categorical", "multi_valued", "vectors"):
            for name in getattr(self, setting, ()):
                yield name, setting

    def made_names(self) -> Iterator[tuple[str, str]]:
        """The columns that these settings make, each with what makes it."""
        bucketized = [name for name, how in self.columns.items() if how.bucketize]
        yield from of_each(bucketized, "columns.bucketize", f"{{}}{BUCKET_SUFFIX}")
        for cross in self.crosses:
            yield of_group(cross.columns, "crosses")

    def made_keys(self) -> Iterator[tuple[str, str]]:
        """The vocabularies of several columns, each with what makes it."""
        for group in self.shared_vocabularies:
            yield "_".join(group), f"the vocabulary of shared_vocabularies {list(group)}"

    def _check_categorical(self, kinds: Mapping[str, Kind]) -> None:
        shared = [name for group in self.shared_vocabularies for name in group]
        crossed = [name for cross in self.crosses for name in cross.columns]
        for name in shared:
            check_kind(kinds, name, "shared_vocabularies", *CODED)
        for setting, names in {"hashing": self.hashing, "crosses": crossed}.items():
            for name in names:
                check_kind(kinds, name, setting, "categorical")
        for cross in self.crosses:
            if len(set(cross.columns)) < len(cross.columns):
                raise ValueError(f"crosses: {list(cross.columns)} names a column twice")
        for name in set(shared):
            if shared.count(name) > 1:
                raise ValueError(f"shared_vocabularies: {name} stands in more than one group")
        for name in self.hashing:
            given = self.columns.get(name, ColumnSettings())
            if name in shared or given.model_fields_set & set(CATEGORICAL_OPTIONS):
                raise ValueError(f"hashing.{name}: a hashed column has no vocabulary to set")


def kind_of(kinds: Mapping[str, Kind], name: str, setting: str) -> Kind:
    """The kind of a column that a setting names."""
    if name not in kinds:
        raise ValueError(f"{setting}: no column {name!r}; there are {', '.join(kinds)}")
    return kinds[name]


def check_kind(kinds: Mapping[str, Kind], name: str, setting: str, *wanted: Kind) -> None:
    """Raises ValueError unless ``name`` is a column of a kind that ``setting`` takes."""
    kind = kind_of(kinds, name, setting)
    if kind not in wanted:
        raise ValueError(f"{setting}: takes {' and '.join(wanted)} columns, {name} is {kind}")


def per_column(
    settings: VocabularySettings, option: str, names: Iterable[str], default: int
) -> int | dict[str, int]:
    """One number, or one for each column where columns differ."""
    own = {name: getattr(settings.columns.get(name, ColumnSettings()), option) for name in names}
    if all(value is None for value in own.values()):
        return default
    return {name: default if value is None else value for name, value in own.items()}


def category_codes(
    settings: VocabularySettings,
    names: list[str],
    freq_threshold: int,
    max_size: int = 0,
    num_buckets: int = 1,
    first_values: Mapping[str, int] | None = None,
) -> list[Any]:
    """Branches that encode ``names``: by vocabulary, by hashing, and the crosses.

    ``first_values``: how many values are kept of the lists of a column; of others all are.
    """
    coded = [name for name in names if name not in settings.hashing]
    branches = []
    if coded:
        operator = Categorify(
            per_column(settings, "freq_threshold", coded, freq_threshold),
            per_column(settings, "max_size", coded, max_size),
            per_column(settings, "num_buckets", coded, num_buckets),
            shared=settings.shared_vocabularies,
        )
        cut = [name for name in coded if name in (first_values or {})]
        whole: Any = [name for name in coded if name not in cut]
        if cut:
            lists = cut >> FirstValues({name: first_values[name] for name in cut})
            whole = whole + lists if whole else lists
        branches.append(whole >> operator)
    hashed = [name for name in names if name in settings.hashing]
    if hashed:
        branches.append(hashed >> HashBucket({name: settings.hashing[name] for name in hashed}))
    branches += [list(cross.columns) >> HashedCross(cross.buckets) for cross in settings.crosses]
    return branches


def grouped(names: Iterable[str], key: Callable[[str], Hashable]) -> dict[Any, list[str]]:
    """The names that have the same key, in their order."""
    groups: dict[Any, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def scaled(names: list[str], filled: Any, how: ColumnSettings) -> Any:
    """Clips, transforms and scales ``filled``, a node or the names themselves, to float32."""
    branch = filled
    if how.clip_min is not None or how.clip_max is not None:
        branch = branch >> Clip(how.clip_min, how.clip_max)
    if how.transform == "log":
        branch = branch >> LogOp()
    if how.scale == "minmax":
        return branch >> NormalizeMinMax()
    if how.scale == "standard":
        return branch >> Normalize()
    return branch >> AsFloat() >> ops.AddMetadata(tags=[Tags.CONTINUOUS])


def fill(how: ColumnSettings, indicators: bool = False) -> Any:
    """The operator that fills missing values."""
    if how.missing == "median":
        return FillMedian()
    return FillMissing(fill_val=how.missing or 0, add_binary_cols=indicators)


def buckets(settings: VocabularySettings, names: Iterable[str]) -> list[Any]:
    """Branches of the columns that are bucketized as well: ``NAME_bucket``."""
    edges = {
        name: settings.columns[name].bucketize
        for name in names
        if name in settings.columns and settings.columns[name].bucketize
    }
    if not edges:
        return []
    return [list(edges) >> Bucketize(edges) >> ops.Rename(postfix=BUCKET_SUFFIX)]
