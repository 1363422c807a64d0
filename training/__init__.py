"""What is learned: batches, models, the training loop, metrics."""

import core  # noqa: F401  Its warning filters come before the first import of torch.
