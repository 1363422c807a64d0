"""Nothing that a session model predicts, or learns a prediction from, depends on the answer.

Every model with every training task that it takes: what comes later never changes a prediction, nor
do padding or the other sessions of the batch; and in training, what is compared with an item that
is to be guessed does not depend on that item.
"""

import pytest
import torch

from core.errors import UserError
from tests.training.session_examples import ITEMS, batch_of, random_sessions, session_schema
from tests.training.session_models import (
    CASES,
    LEARNING,
    SIDE,
    settings_of,
    small_model,
    step_scores,
)
from training.sessions import MODELS, build, settings_class
from training.sessions.ragged import every_step, pad, windows_before

SESSION = [5, 9, 7, 12, 6, 8, 10, 11, 4]
"""No item twice, and longer than the models look back."""
TRAINED = [(name, masking) for name, masking in CASES if name in LEARNING]
MASKED = [(name, masking) for name, masking in TRAINED if masking in ("mlm", "plm", "rtd")]
CAUSAL = [case for case in TRAINED if case not in MASKED]


def changed(session, events, seed=1):
    """The session with other items, categories and prices at ``events``."""
    generator = torch.Generator().manual_seed(seed)
    inputs, _ = batch_of([session])
    items = torch.randint(13, ITEMS, (len(events),), generator=generator)
    inputs["item_id__values"][events] = items.int()
    inputs["category__values"][events] = 11 - inputs["category__values"][events]
    inputs["price__values"][events] += 3.0
    return inputs, None


def guessed(model, batch, seed=5):
    """What a training pass compares with items, ``(targets, d_model)``, and with which ones."""
    seen = []
    hook = model.objective.register_forward_hook(lambda _, given, __: seen.append(given[:2]))
    torch.manual_seed(seed)
    with torch.no_grad():
        model.eval().weighted_loss(batch)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "masking"), CASES)
def test_what_comes_later_never_changes_a_prediction(name, masking):
    model = small_model(name, *SIDE, masking=masking)
    before = step_scores(model, batch_of([SESSION]))
    for step in range(1, len(SESSION)):
        after = step_scores(model, changed(SESSION, list(range(step, len(SESSION)))))
        assert torch.equal(after[:step], before[:step])
        if name in LEARNING and step < len(SESSION) - 1:
            assert not torch.equal(after[step:], before[step:])


@pytest.mark.parametrize(("name", "masking"), CASES)
def test_padding_never_changes_a_prediction(name, masking):
    model = small_model(name, *SIDE, masking=masking).eval()
    sessions = model.sessions(batch_of([SESSION]))
    windows = windows_before(sessions, every_step(sessions)[:3], model.max_length)
    with torch.no_grad():
        narrow, wide = (model.scores(pad(sessions, windows, width)) for width in (3, 6))
    torch.testing.assert_close(narrow, wide)


@pytest.mark.parametrize(("name", "masking"), CASES)
def test_other_sessions_never_change_a_prediction(name, masking):
    model = small_model(name, *SIDE, masking=masking)
    together = batch_of([SESSION, *random_sessions(5, seed=3)])
    alone = batch_of([SESSION])
    for key, values in alone[0].items():
        alone[0][key] = together[0][key][: len(values)]
    steps = len(SESSION) - 1
    torch.testing.assert_close(step_scores(model, alone), step_scores(model, together)[:steps])


@pytest.mark.parametrize(("name", "masking"), CAUSAL)
def test_later_events_never_change_earlier_terms_of_a_causal_loss(name, masking):
    model = small_model(name, *SIDE, masking=masking, max_length=len(SESSION))
    hidden, targets = guessed(model, batch_of([SESSION]))
    assert targets.tolist() == SESSION[1:]
    for step in range(1, len(SESSION)):
        other, _ = guessed(model, changed(SESSION, list(range(step, len(SESSION)))))
        assert torch.equal(other[:step], hidden[:step])


def shares(masking, share):
    """Settings by which that share of the earlier events is guessed besides the last one."""
    names = ["mlm_probability", *(["plm_probability"] if masking == "plm" else [])]
    return dict.fromkeys(names, share)


@pytest.mark.parametrize("sequences", ["every_step", "session"])
@pytest.mark.parametrize(("name", "masking"), MASKED)
def test_a_hidden_event_is_guessed_without_seeing_it(name, masking, sequences):
    settings = {**shares(masking, 0.5), "sequences": sequences, "max_length": len(SESSION)}
    model = small_model(name, *SIDE, masking=masking, **settings)
    hidden, targets = guessed(model, batch_of([SESSION]))
    assert len(targets) > (len(SESSION) - 1 if sequences == "every_step" else 1)
    for place, item in enumerate(SESSION):
        other, others = guessed(model, changed(SESSION, [place]))
        rows = targets == item
        assert torch.equal(rows, others != targets)
        assert torch.equal(other[rows], hidden[rows])
        if place == 0:  # The one event that is never hidden.
            assert not torch.equal(other, hidden)


@pytest.mark.parametrize(("name", "masking"), MASKED)
def test_each_step_as_a_sequence_never_sees_later_events(name, masking):
    model = small_model(
        name, *SIDE, masking=masking, max_length=len(SESSION), **shares(masking, 0.0)
    )
    hidden, targets = guessed(model, batch_of([SESSION]))
    assert sorted(targets.tolist()) == sorted(SESSION[1:])
    for step in range(1, len(SESSION)):
        other, _ = guessed(model, changed(SESSION, list(range(step, len(SESSION)))))
        rows = torch.isin(targets, torch.tensor(SESSION[1 : step + 1]))
        assert rows.sum() == step
        assert torch.equal(other[rows], hidden[rows])


@pytest.mark.parametrize(("name", "masking"), MASKED)
def test_training_and_scoring_see_the_same(name, masking):
    """With nothing but the last event hidden, training compares what the scores come from."""
    model = small_model(
        name, *SIDE, masking=masking, max_length=len(SESSION), **shares(masking, 0.0)
    )
    hidden, targets = guessed(model, batch_of([SESSION]))
    order = [SESSION[1:].index(item) for item in targets.tolist()]
    with torch.no_grad():
        trained = model.items.scores(hidden, model.items.candidates())
    torch.testing.assert_close(trained, step_scores(model, batch_of([SESSION]))[order])


@pytest.mark.parametrize("masking", ["clm", "causal"])
@pytest.mark.parametrize("name", sorted({name for name, _ in MASKED}))
def test_causal_training_of_what_attends_both_ways_is_refused(name, masking):
    with pytest.raises(UserError, match=r"masking: .*sees the answer; expected mlm or"):
        build(name, session_schema(), {"masking": masking})


@pytest.mark.parametrize(
    ("name", "masking", "expected"),
    [
        ("gpt2", "mlm", r"attends to earlier events only.*expected clm, got 'mlm'"),
        ("bert4rec", "plm", "expected mlm or rtd, got 'plm'"),
        ("xlnet", "mlmm", r"sessions\.xlnet: masking: expected mlm or plm or rtd, got 'mlmm'"),
    ],
)
def test_a_task_that_does_not_fit_is_named(name, masking, expected):
    with pytest.raises(UserError, match=expected):
        build(name, session_schema(), {"masking": masking})


@pytest.mark.parametrize("name", LEARNING)
def test_settings_that_do_not_fit_are_named(name):
    with pytest.raises(UserError, match=rf"sessions\.{name}: max_length: .*equal to 2, got 1"):
        build(name, session_schema(), {"max_length": 1})
    with pytest.raises(UserError, match=r"side_features: .*'brand'.*found: category, price"):
        build(name, session_schema(*SIDE), {"side_features": ["brand"]})
    if "heads" in settings_class(name).model_fields:
        with pytest.raises(UserError, match="multiple of heads"):
            build(name, session_schema(), {"d_model": 30, "heads": 4})


def test_every_model_is_among_the_cases():
    assert {name for name, _ in CASES} == set(MODELS)
    assert settings_of("gpt2")["d_model"] == 16
