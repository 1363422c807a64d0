"""Small session models of every kind, and what they make of a batch."""

import torch

from tests.training.session_examples import batch_of, random_sessions, session_schema
from training.sessions import MODELS, build, settings_class
from training.sessions.neural_settings import NextItemSettings
from training.sessions.ragged import every_step, pad, windows_before

SIDE = ("category", "price")
HOUR = 3_600_000
SMALL = {"d_model": 16, "heads": 2, "layers": 2, "max_length": 6, "side_dim": 4}
LEARNING = [name for name in MODELS if issubclass(settings_class(name), NextItemSettings)]
"""Models that learn by gradient."""
CASES = [
    (name, masking)
    for name in MODELS
    for masking in getattr(settings_class(name), "maskings", ("",))
]
"""Every model with every training task that it takes."""


def settings_of(name, masking="", **settings):
    """Those of :data:`SMALL` that the model has, under those that are given."""
    known = settings_class(name).model_fields
    small = {key: value for key, value in SMALL.items() if key in known}
    return {**small, **({"masking": masking} if masking else {}), **settings}


def small_model(name, *side, masking="", **settings):
    """A model whose weights and counts come from a seed; of the side features it takes all."""
    torch.manual_seed(0)
    if side and "side_features" in settings_class(name).model_fields:
        settings = {"side_features": side, **settings}
    model = build(name, session_schema(*SIDE), settings_of(name, masking, **settings))
    if model.observes_first or not model.learns_by_gradient:
        inputs, targets = batch_of(random_sessions(40))
        model.observe(({**inputs, "start": torch.arange(40) * HOUR}, targets))
        model.finish()
    return model


def step_scores(model, batch):
    """Scores at every step of the batch, ``(steps, num_items)``."""
    sessions = model.sessions(batch)
    windows = windows_before(sessions, every_step(sessions), model.max_length)
    with torch.no_grad():
        return model.eval().scores(pad(sessions, windows))
