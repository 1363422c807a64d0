"""The best score that any model could have on a split of a generated log, over exactly the rows or
steps that its metric is over.

Rows are joined to their true probabilities by identity: the input file, known by its SHA-256, and
the row in it; steps of sessions by the session's id and the items themselves. Where that cannot be
done there is no best possible score, and a sentence says why.
"""

from pathlib import Path
from typing import Any

import numpy as np

from core.artifacts import parquet_files
from core.errors import UserError
from core.parquet import read_table
from core.sums import CHECKSUM, Contents
from pipeline.ingest.generated import GENERATED
from pipeline.synthetic.bayes import TRUTH_FILE

Best = dict[str, float | None]


class NotMatched(Exception):
    """The rows of a split are not known to be rows of the generated log; says why."""


def open_truth(manifest: dict[str, Any]) -> Contents | None:
    """The generated log that features with ``manifest`` were made of; None for a real log.

    Raises:
        NotMatched: its files are not those that were read, or it is gone.
    """
    about = manifest.get(GENERATED)
    if not about:
        return None
    if isinstance(about, str):
        raise NotMatched(f"the features of {about} were made by an older version")
    folder = about["folder"]
    if "not_matched" in about:
        raise NotMatched(f"{folder}: {about['not_matched']}")
    try:
        contents = Contents(folder, "manifest.json", "generate", links=True)
        if contents.record.get(CHECKSUM) == about["checksum"]:
            contents.check(TRUTH_FILE)
            return contents
    except UserError:
        raise NotMatched(f"{folder}: its {TRUTH_FILE} is missing or altered") from None
    raise NotMatched(f"{folder} was generated anew since these features were made")


def best_of_clicks(features: Path, manifest: dict[str, Any], split: str, label: str) -> Best | None:
    """Best ``auc`` and ``logloss`` of the rows of a split; None for a real log.

    Args:
        label: the target that the metrics are of.

    Raises:
        NotMatched: see :class:`NotMatched`.
    """
    from pipeline.synthetic.bayes import bayes_scores

    contents = open_truth(manifest)
    if contents is None:
        return None
    held = manifest.get("truth_rows", {}).get(split)
    if held is None:
        raise NotMatched(f"not all rows of the {split} split are rows of {contents.folder}")
    truth = read_table(contents.folder / TRUTH_FILE, ["label", "probability"])
    rows = np.concatenate([np.arange(first, last) for first, last in held])
    if len(rows) and rows.max() >= truth.num_rows:
        raise NotMatched(f"{contents.folder}: its {TRUTH_FILE} has fewer rows than its log")
    labels = truth["label"].to_numpy()[rows]
    parts = [read_table(part, [label])[label].to_numpy() for part in _parts(features, split)]
    if not np.array_equal(np.concatenate(parts), labels):
        raise NotMatched(f"the labels of the {split} split are not those of {contents.folder}")
    scores = bayes_scores(truth["probability"].to_numpy()[rows], labels)
    contents.confirm()
    of_one_kind = labels.min() == labels.max()
    return {"auc": None if of_one_kind else scores["auc"], "logloss": scores["logloss"]}


def best_of_sessions(
    features: Path, manifest: dict[str, Any], split: str, item: str, settings: Any
) -> Best | None:
    """Best recall, ndcg and mrr at each of ``settings.ks``, over the steps that ``settings`` ask
    for; None for a real log.

    Args:
        item: name of the item column.
        settings: of the evaluation.

    Raises:
        NotMatched: see :class:`NotMatched`.
    """
    from pipeline.synthetic.session_truth import SessionTruth
    from pipeline.vocabularies import vocabularies

    contents = open_truth(manifest)
    if contents is None:
        return None
    tables = [read_table(part, ["session_id", item]) for part in _parts(features, split)]
    ids = np.concatenate([_numbers(table["session_id"]) for table in tables])
    lists = [table[item].combine_chunks() for table in tables]
    codes = np.concatenate([np.asarray(column.flatten()) for column in lists])
    lengths = np.concatenate([np.asarray(column.value_lengths()) for column in lists])
    first, values = vocabularies(features)[item]
    truth = SessionTruth(contents.folder, [str(value) for value in values.to_pylist()], first)
    from_end = split == "test" or not {"end", "leave_one_out"} & {*manifest.get("bounds", {})}
    steps = truth.matched(ids, lengths, codes, from_end)
    if steps is None:
        raise NotMatched(f"the sessions of the {split} split are not those of {contents.folder}")
    best = truth.best(lengths, codes, steps, settings)
    contents.confirm()
    return best


def _parts(features: Path, split: str) -> list[Path]:
    return parquet_files(features / split)


def _numbers(column: Any) -> np.ndarray:
    """Session ids as the generated log has them.

    Raises:
        NotMatched: they are no numbers: sessions were cut anew.
    """
    try:
        return column.cast("int64").to_numpy()
    except (ValueError, NotImplementedError):  # Arrow's errors are of these kinds.
        raise NotMatched("the session ids of the features are not those of the log") from None
