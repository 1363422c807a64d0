"""What a trained model costs: its size on disk, and the time of a prediction."""

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

from pipeline.compare.settings import CompareSettings
from pipeline.stages.train import WEIGHTS_FILE, model_columns
from training.engine_settings import EngineSettings

ROUNDS = 3


def megabytes(model: Path) -> float:
    """Size of the weights' safetensors file, in MB of 10⁶ bytes."""
    return (model / WEIGHTS_FILE).stat().st_size / 1e6


def inference(
    recipe: str,
    model: Any,
    schema: Any,
    split: Path,
    engine: EngineSettings,
    settings: CompareSettings,
) -> dict[str, Any]:
    """Times predictions of rows that are in memory already, after a round that is not counted.

    For a click model that is the logits of rows; for a session model the rank of what came next
    after each prefix that ``model.evaluation`` asks for, among all items.

    Args:
        split: folder of feature Parquet; its first rows are taken.

    Returns:
        ``inference_microseconds`` a row (a session), the median of three rounds; on which
        ``device``, with how many ``threads``, in batches of ``inference_batch_size``.
    """
    import torch

    from training import hardware
    from training.batches import Batches

    size = settings.inference_batch_size
    columns = model_columns(recipe, model, schema)
    batches = Batches(split, schema, size, columns=columns, shuffle=False)
    count = min(len(batches), max(1, settings.inference_rows // size))
    device = torch.device(hardware.resolve_device(engine.device))
    model.to(device)
    held = [hardware.to_device(batch, device) for batch in itertools.islice(batches, count)]
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + ROUNDS):
            began = time.perf_counter()
            for batch in held:
                model.predict(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - began)
    rows = min(batches.rows, count * size)
    return {
        "inference_microseconds": 1e6 * statistics.median(seconds[1:]) / rows,
        "inference_batch_size": min(size, batches.rows),
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
