"""What evaluation adds to the memory of a process, with a million items."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.session_examples import batch_of, session_schema
from training.sessions import build
from training.sessions.evaluation import SessionEvaluationSettings, evaluate_sessions

SCRIPT = """
import re
import torch
from tests.training.session_examples import session_schema
from training.sessions.base import SessionModel
from training.sessions.evaluation import SessionEvaluationSettings, evaluate_sessions

ITEMS = 1_000_000

class MeanOfItems(SessionModel):
    def __init__(self):
        super().__init__(session_schema(items=ITEMS), SessionEvaluationSettings(), max_length=9)
        self.table = torch.nn.Embedding(ITEMS, 64)

    def scores(self, prefixes):
        return self.table(prefixes["item_id"].long()).mean(1) @ self.table.weight.T

def kibibytes(name):
    with open("/proc/self/status") as file:
        return int(re.search(name + r":\\s+(\\d+) kB", file.read()).group(1))

def batch(sessions):
    offsets = torch.arange(0, 9 * sessions + 1, 9)
    items = torch.randint(3, ITEMS, (9 * sessions,)).int()
    return {"item_id__values": items, "item_id__offsets": offsets}, None

torch.set_num_threads(1)
model, counts = MeanOfItems(), torch.randint(1, 99, (ITEMS,))
settings = SessionEvaluationSettings(exclude_seen=True)
before = kibibytes("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
report = evaluate_sessions(model, [batch(1), batch(4)], settings, counts)
assert report["predictions"] == 8 * 5 and report["coverage@20"] > 0
print((kibibytes("VmHWM") - before) / 1024)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peak to reset")
def test_a_million_items_in_half_a_gigabyte():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 500


def test_a_chunk_has_as_many_prefixes_as_their_scores_fit(monkeypatch):
    model = build("popular", session_schema(items=100_000))
    rows = []
    scores = model.scores
    monkeypatch.setattr(
        model, "scores", lambda prefixes: rows.append(len(prefixes["item_id"])) or scores(prefixes)
    )
    sessions = [torch.arange(3, 10).tolist()] * 4
    for megabytes in (1, 2, 128):
        rows.clear()
        evaluate_sessions(
            model, [batch_of(sessions)], SessionEvaluationSettings(scores_mb=megabytes)
        )
        assert sum(rows) == 24
        assert max(rows) == min(24, megabytes * 2**20 // 400_000)
