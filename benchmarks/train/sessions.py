"""XLNet over sessions: ours against Transformers4Rec's own trainer, on the same sequences.

Ours trains on every step of a session as a sequence of its own: the events before it, and a mask
in its place. T4RecTrainer gets those very sequences as its rows, in batches of as many, and hides
one event of each (its masking hides at least one; more with a probability that is set near 0 here).
So both put the same sequences through the same net for one target each; what differs is how.
"""

import argparse
import importlib.util
import shutil
import tempfile
import time
from typing import Any

import numpy as np
import torch

from benchmarks.train.features import session_features
from benchmarks.train.rounds import Way, alternate, summary
from core.console import say
from core.merlin import Schema, transformers4rec

ITEMS = 5_000
LONGEST = 20
WIDTH, LAYERS, HEADS = 64, 2, 4
SESSIONS_A_BATCH = 64
DROPOUT = 0.2


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Sequences a second of both."""
    sessions = random_sessions((options.steps + 1) * SESSIONS_A_BATCH)
    rows = [session[:end] for session in sessions for end in range(2, len(session) + 1)]
    batch = len(rows) * SESSIONS_A_BATCH // len(sessions)
    folder = options.folder / "sessions"
    schema = session_features(folder / "sessions", sessions, ITEMS)
    session_features(folder / "rows", rows, ITEMS)
    say(f"{len(rows):,} sequences of 2 to {LONGEST} events, {batch} a batch, one target each")
    ways = [Way("ours", lambda: ours(options, folder, schema, len(rows) / len(sessions)))]
    if importlib.util.find_spec("accelerate"):
        ways.append(Way("T4RecTrainer", lambda: stock(options, folder, schema, batch)))
    else:
        say(
            "T4RecTrainer: left out, as it needs the package accelerate, which nothing else here "
            "does (pip install --no-deps accelerate==0.27.2 fits)"
        )
    alternate(ways, options.rounds)
    title = f"XLNet, {LAYERS} layers of {WIDTH}, {ITEMS:,} items, batches of {batch} sequences"
    return {"batch": batch, **summary(title, "sequences/s", ways, "ours")}


def random_sessions(count: int) -> list[np.ndarray]:
    """Sessions of 2 to ``LONGEST`` items, short ones more often, items by a power law."""
    random = np.random.default_rng(0)
    lengths = np.minimum(2 + random.geometric(0.15, count) - 1, LONGEST)
    first, last = 3, ITEMS
    return [first + (last - first) * random.random(n) ** 3 // 1 for n in lengths]


def ours(options: argparse.Namespace, folder: Any, schema: Schema, expansion: float) -> float:
    """``fit`` of the project's XLNet."""
    from training import sessions
    from training.batches import Batches
    from training.engine import fit, seed_all
    from training.engine_settings import EngineSettings

    seed_all(0)
    sizes = {"d_model": WIDTH, "layers": LAYERS, "heads": HEADS, "dropout": DROPOUT}
    model = sessions.build("xlnet", schema, {**sizes, "max_length": LONGEST - 1})
    settings = EngineSettings(
        **{**sessions.ENGINE_DEFAULTS, "patience": None},
        max_steps=options.steps,
        threads=options.threads,
    )
    train = Batches(folder / "sessions" / "train", schema, SESSIONS_A_BATCH, shuffle=True)
    result = fit(model, train, None, settings, folder / "ours", resume=False)
    shutil.rmtree(folder / "ours")
    return result.samples_per_second * expansion


def stock(options: argparse.Namespace, folder: Any, schema: Schema, batch: int) -> float:
    """Transformers4Rec's model and trainer as its examples set them up."""
    tr = transformers4rec()
    from transformers import TrainerCallback
    from transformers4rec.config.trainer import T4RecTrainingArguments
    from transformers4rec.torch import Trainer

    class Clock(TrainerCallback):
        def on_train_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_train_end(self, *_, **__):
            self.seconds = time.perf_counter() - self.began

    schema = Schema([column.with_shape((None, (0, LONGEST))) for column in schema])
    torch.manual_seed(0)
    inputs = tr.TabularSequenceFeatures.from_schema(
        schema,
        max_sequence_length=LONGEST,
        aggregation="concat",
        embedding_dim_default=WIDTH,
        masking="mlm",
        d_output=WIDTH,
        mlm_probability=1e-6,
    )
    net = tr.XLNetConfig.build(
        d_model=WIDTH,
        n_head=HEADS,
        n_layer=LAYERS,
        total_seq_length=LONGEST,
        dropout=DROPOUT,
    )
    model = net.to_torch_model(inputs, tr.NextItemPredictionTask(weight_tying=True))
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        arguments = T4RecTrainingArguments(
            output_dir=output,
            max_sequence_length=LONGEST,
            data_loader_engine="merlin",
            max_steps=options.steps,
            per_device_train_batch_size=batch,
            no_cuda=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            learning_rate=2e-3,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            schema=schema,
            compute_metrics=False,
            callbacks=[clock],
            train_dataset_or_path=str(folder / "rows" / "train" / "*.parquet"),
        )
        trainer.train()
    return options.steps * batch / clock.seconds
