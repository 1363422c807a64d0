"""The evaluation protocol against a second implementation over plain lists."""

import math

import pytest
import torch
from pydantic import ValidationError

from tests.training.session_examples import ITEMS, batch_of, random_sessions, session_schema
from training.sessions import build
from training.sessions import evaluation as evaluation_module
from training.sessions.base import SessionModel
from training.sessions.evaluation import SessionEvaluationSettings, evaluate_sessions


class Bigram(SessionModel):
    """Scores by the last item alone, with many ties; remembers the prefixes it was shown."""

    def __init__(self):
        super().__init__(session_schema(), SessionEvaluationSettings(), max_length=4)
        generator = torch.Generator().manual_seed(5)
        table = torch.randint(0, 6, (ITEMS, ITEMS), generator=generator).float()
        self.register_buffer("table", table)
        # Reserved codes score best, so one that is ranked would show.
        self.table[:, :3] = 100.0
        self.shown = []

    def scores(self, prefixes):
        items = prefixes["item_id"].long()
        self.shown += [[i for i in row if i] for row in items.tolist()]
        last = (items != 0).sum(1) - 1
        return self.table[items.gather(1, last[:, None]).squeeze(1)]


def second_implementation(table, sessions, settings, k):
    """Pooled recall, ndcg and mrr at k, and the same per session length, one step at a time."""
    outcomes = []
    for session in sessions:
        session = [item for item in session if item >= 3]
        if settings.drop_repeats:
            pairs = zip([None, *session], session, strict=False)
            session = [item for previous, item in pairs if item != previous]
        first = 1 if settings.protocol == "per_step" else max(len(session) - 1, 1)
        for step in range(first, len(session)):
            last, target = session[step - 1], session[step]
            rank = 1
            for item in range(3, ITEMS):
                barred = settings.exclude_last_item and settings.drop_repeats and item == last
                if item != target and not barred:
                    rank += bool(table[last, item] >= table[last, target])
            outcomes.append((len(session), rank))

    def pooled(ranks):
        hits = [rank for rank in ranks if rank <= k]
        return {
            f"recall@{k}": len(hits) / len(ranks),
            f"ndcg@{k}": sum(1 / math.log2(1 + rank) for rank in hits) / len(ranks),
            f"mrr@{k}": sum(1 / rank for rank in hits) / len(ranks),
        }

    bounds = {"2": (2, 2), "3-5": (3, 5), "6-10": (6, 10), "11-20": (11, 20), "21+": (21, 10**9)}
    groups = {
        name: [rank for length, rank in outcomes if low <= length <= high]
        for name, (low, high) in bounds.items()
    }
    return (
        pooled([rank for _, rank in outcomes]),
        {name: pooled(ranks) for name, ranks in groups.items() if ranks},
        len(outcomes),
    )


@pytest.mark.parametrize("protocol", ["per_step", "last_item"])
@pytest.mark.parametrize("repeats", ["kept", "dropped", "dropped, last item a candidate"])
def test_metrics_agree_with_the_second_implementation(protocol, repeats, monkeypatch):
    monkeypatch.setattr(evaluation_module, "ROWS_AT_MOST", 7)
    settings = SessionEvaluationSettings(
        protocol=protocol,
        ks=(5, 10),
        drop_repeats=repeats != "kept",
        exclude_last_item=repeats != "dropped, last item a candidate",
    )
    sessions = random_sessions(30, longest=25)
    for session in sessions[::3]:
        # Unseen items, immediate repeats, and a repeat that appears once an unseen item is dropped.
        session[1:1] = [2, session[0], session[0], 2]
    sessions += [[7], [], [2, 2], [4, 2]]
    model = Bigram()

    result = evaluate_sessions(model, [batch_of(sessions[:20]), batch_of(sessions[20:])], settings)

    for k in (5, 10):
        overall, by_length, predictions = second_implementation(model.table, sessions, settings, k)
        assert {name: result[name] for name in overall} == pytest.approx(overall)
        assert result["by_session_length"].keys() == by_length.keys()
        for name, expected in by_length.items():
            found = result["by_session_length"][name]
            assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert result["predictions"] == predictions
    assert result["sessions"] == 30


def test_each_prefix_is_shown_alone():
    model = Bigram()
    evaluate_sessions(model, [batch_of([[3, 4, 5, 6, 7, 8], [9, 2, 9, 10]])])
    expected = [[3], [3, 4], [3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7], [9]]
    assert sorted(model.shown) == sorted(expected)


def test_nothing_to_predict_is_no_score():
    result = evaluate_sessions(Bigram(), [batch_of([[3], [2, 2, 4]])])
    assert result["predictions"] == result["sessions"] == 0
    assert result["recall@20"] is None
    assert result["by_session_length"] == {}


def test_a_catalogue_of_one_item():
    model = build("popular", session_schema(items=4))
    model.observe(batch_of([[3, 3]]))
    settings = SessionEvaluationSettings(drop_repeats=False)
    result = evaluate_sessions(model, [batch_of([[3, 3, 3]])], settings)
    assert result["recall@20"] == 1
    assert evaluate_sessions(model, [batch_of([[3, 3, 3]])])["predictions"] == 0


def test_wrong_lengths_are_refused():
    with pytest.raises(ValidationError, match="at least one length"):
        SessionEvaluationSettings(ks=())
