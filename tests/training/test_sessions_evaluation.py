"""The evaluation protocol against a second implementation over plain lists."""

import json

import pytest
import torch
from pydantic import ValidationError

from tests.training import session_reference as reference
from tests.training.session_examples import ITEMS, batch_of, random_sessions, session_schema
from training.sessions import build, prefixes
from training.sessions.base import SessionModel
from training.sessions.evaluation import (
    SessionEvaluationSettings,
    SessionMetrics,
    evaluate_sessions,
    metric_names,
    rank_steps,
)


class Bigram(SessionModel):
    """Scores by the last item alone, with many ties; remembers the prefixes it was shown."""

    def __init__(self):
        super().__init__(session_schema(), SessionEvaluationSettings(), max_length=4)
        generator = torch.Generator().manual_seed(5)
        table = torch.randint(0, 6, (ITEMS, ITEMS), generator=generator).float()
        self.register_buffer("table", table)
        # Reserved codes score best, so one that is ranked would show.
        self.table[:, :3] = 100.0
        # Scores that are no numbers, and items that a model never names.
        self.table[5::7, 4::5] = torch.nan
        self.table[6::7, 3::4] = -torch.inf
        self.shown = []

    def scores(self, prefixes):
        items = prefixes["item_id"].long()
        self.shown += [[i for i in row if i] for row in items.tolist()]
        last = (items != 0).sum(1) - 1
        return self.table[items.gather(1, last[:, None]).squeeze(1)]


FILTERS = {
    "kept": {"drop_repeats": False},
    "dropped": {},
    "last item a candidate": {"exclude_last_item": False},
    "seen excluded": {"exclude_seen": True},
    "seen excluded, repeats kept": {"exclude_seen": True, "drop_repeats": False},
}


def awkward_sessions():
    """Unseen items, immediate repeats, repeats that appear once an unseen item is dropped, items
    that come back, and sessions that end with an unseen item or have too little."""
    sessions = random_sessions(30, longest=25)
    for session in sessions[::3]:
        session[1:1] = [2, session[0], session[0], 2]
    for session in sessions[1::5]:
        session.append(session[0])
    for session in sessions[::4]:
        session.append(2)
    return [*sessions, [7], [], [2, 2], [4, 2], [5, 2, 5], [3, 6, 1]]


@pytest.mark.parametrize("protocol", ["per_step", "last_item", "leave_one_out"])
@pytest.mark.parametrize("filters", FILTERS)
def test_all_that_is_reported_agrees_with_the_second_implementation(protocol, filters, monkeypatch):
    monkeypatch.setattr(prefixes, "ROWS_AT_MOST", 7)
    ks = (1, 5, 10, 40)
    settings = SessionEvaluationSettings(protocol=protocol, ks=ks, **FILTERS[filters])
    sessions = awkward_sessions()
    model = Bigram()
    counts = torch.randint(0, 90, (ITEMS,), generator=torch.Generator().manual_seed(1))

    batches = [batch_of(sessions[:20]), batch_of(sessions[20:])]
    result = evaluate_sessions(model, batches, settings, counts)

    table = model.table.tolist()
    steps = reference.outcomes(lambda prefix: table[prefix[-1]], sessions, settings, ITEMS)
    expected = reference.metrics(steps, ks) | reference.of_lists(steps, ks, counts.tolist())
    expected |= {"predictions": len(steps), "sessions": len({step["session"] for step in steps})}
    assert {name: result.pop(name) for name in expected} == pytest.approx(expected)
    intervals = result.pop("intervals")
    assert set(intervals) == {f"{name}@{k}" for name in settings.metrics for k in ks}
    for name in settings.metrics:
        error = intervals[f"{name}@5"]["standard_error"]
        assert error == pytest.approx(reference.standard_error(steps, name, 5))
    groups = {
        "by_session_length": reference.by_session_length(steps, ks),
        "by_popularity": reference.by_popularity(steps, ks, counts.tolist()),
    }
    for by, expected_groups in groups.items():
        found = result.pop(by)
        assert found.keys() == expected_groups.keys()
        for name, group in expected_groups.items():
            assert found[name] == pytest.approx(group)
    assert not result


def test_counts_of_several_processes_add_up():
    sessions, settings = awkward_sessions(), SessionEvaluationSettings()
    counts = torch.arange(ITEMS)
    model = Bigram()
    whole = evaluate_sessions(model, [batch_of(sessions)], settings, counts)
    first, second = (SessionMetrics(settings, ITEMS, counts) for _ in range(2))
    for metrics, part in ((first, sessions[:9]), (second, sessions[9:])):
        metrics.update(rank_steps(model, batch_of(part), settings))
    first.add(second.state())
    pooled = first.report()
    assert pooled["intervals"].pop("mrr@20") == pytest.approx(whole["intervals"].pop("mrr@20"))
    for report in (whole, pooled):
        report.pop("intervals")
    assert pooled == whole


def test_seen_items_may_not_be_the_answer():
    settings = SessionEvaluationSettings(protocol="last_item", exclude_seen=True, ks=(40,))
    result = evaluate_sessions(Bigram(), [batch_of([[3, 4, 3], [3, 4, 5]])], settings)
    assert result["recall@40"] == 0.5


def test_leave_one_out_never_asks_for_an_event_before_the_last():
    settings = SessionEvaluationSettings(protocol="leave_one_out")
    sessions = [[3, 4, 2], [3, 4, 5], [3, 4, 2, 4], [2, 6]]
    model = Bigram()
    assert evaluate_sessions(model, [batch_of(sessions)], settings)["predictions"] == 1
    assert model.shown == [[3, 4]]


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
    assert not {"coverage@20", "intervals"} & set(result)
    assert "items unseen in training" in result["undefined_because"]
    asked = evaluate_sessions(Bigram(), [batch_of([[3, 4]])])
    assert "undefined_because" not in asked


@pytest.mark.parametrize("chosen", [{}, {"metrics": ("mrr", "hit"), "ks": (3,)}, {"lists": False}])
def test_the_names_of_the_metrics_are_those_of_the_report(chosen):
    settings = SessionEvaluationSettings(**chosen)
    sessions = [batch_of(awkward_sessions())]
    report = evaluate_sessions(Bigram(), sessions, settings, torch.arange(ITEMS))
    assert sorted(metric_names(settings)) == sorted(name for name in report if "@" in name)
    asked = {name for name in report if name.partition("@")[0] in settings.metrics}
    assert set(report["intervals"]) == asked


def test_items_that_were_never_counted_say_nothing_of_popularity():
    counts = torch.zeros(ITEMS, dtype=torch.int64)
    result = evaluate_sessions(Bigram(), [batch_of([[3, 4, 5]])], counts=counts)
    assert result["popularity@20"] == 0
    assert result["popularity_bias@20"] is None
    assert json.loads(json.dumps(result, allow_nan=False)) == result


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
