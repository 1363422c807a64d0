"""What a reader has to know about an evaluation, in sentences: of its metrics, split and model."""

from typing import Any

from core.console import counted
from pipeline.evaluation.training_summary import ending
from pipeline.small_splits import few, few_of_a_class

MANY_UNSEEN = 0.5
"""Share of rows of unseen users from which metrics are over a minority."""


def of_clicks(
    metrics: dict[str, Any], split: str, probabilities: Any, labels: Any, label: str
) -> list[str]:
    """Remarks on the metrics of a click model.

    Args:
        label: name of the target.
        probabilities, labels: of the split, NumPy's, ``(rows,)``.
    """
    rows, clicks = len(labels), int((labels > 0).sum())
    remarks = [*few(split, rows, "row"), *few_of_a_class(split, label, clicks, rows)]
    if clicks in (0, rows):
        return remarks
    expected = int((probabilities >= 0.5).sum())
    if expected in (0, rows):
        never = "never" if expected == 0 else "always"
        remarks.append(
            f"accuracy {metrics['accuracy']:.4f} is that of {never} saying click: "
            f"{'no' if expected == 0 else 'every'} probability reaches one half"
        )
    elif metrics["accuracy"] <= max(clicks, rows - clicks) / rows:
        remarks.append(
            f"accuracy {metrics['accuracy']:.4f} is no better than that of always saying the "
            f"commoner label, {max(clicks, rows - clicks) / rows:.4f}"
        )
    return remarks


def of_sessions(metrics: dict[str, Any], split: str, total: int) -> list[str]:
    """Remarks on the metrics of a session model.

    Args:
        total: sessions of the split.
    """
    asked = metrics["sessions"]
    remarks = few(split, asked, "session")
    if asked < total:
        remarks.append(
            f"{total - asked:,} of {counted(total, 'session')} of the {split} split are not in the "
            "metrics: without unseen items, and what sessions.evaluate leaves out, they have no "
            "next item"
        )
    return remarks


def of_users(split: str, judged: int, total: int, unseen: float = 0.0) -> list[str]:
    """Remarks on the metrics of a model that ranks items for users.

    Args:
        judged: users in the means.
        total: users with an item in the split.
        unseen: share of the split's rows whose user is not in training.
    """
    remarks = few(split, judged, "user")
    if unseen >= MANY_UNSEEN:
        remarks.append(
            f"{unseen:.1%} of the rows of the {split} split are of users that training does not "
            "have, and are not in the metrics; interactions.preprocess.split.kind leave_one_out "
            "tests every user"
        )
    if judged < total:
        remarks.append(
            f"{total - judged:,} of {counted(total, 'user')} with items in the {split} split are "
            "not in the metrics: they chose all of them before"
        )
    return remarks


def of_training(recipe: str, record: dict[str, Any]) -> list[str]:
    """A remark on how the training ended, by ``model.json``: stopped early, or still improving."""
    if "planned_steps" not in record.get("learned", {}):
        return []  # of an older version, or of factors that were taken from a model
    end = ending(recipe, record)
    was = "" if end.startswith("stopped") else "was "
    return [f"training {was}{end}"] if end else []
