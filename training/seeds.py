"""One seed for all random generators."""

import random

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seeds Python, NumPy and torch; call it before a model is built, as ``fit`` does after."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
