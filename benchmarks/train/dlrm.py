"""DLRM with its Criteo Kaggle sizes: ours, stock merlin-models, plain PyTorch, its dense layers."""

import argparse
import logging
import shutil
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.train.features import click_features
from benchmarks.train.rounds import (
    PYTORCHS_OWN,
    Way,
    alternate,
    apart,
    gemm_rate,
    summary,
    timed_steps,
)
from core.console import say
from core.merlin import Dataset, Schema, Tags, torch_loader, torch_models
from training.hardware import multiplies_bf16

COLUMNS, DENSE, DIM = 26, 13, 16
BOTTOM, TOP = [512, 256, 64, DIM], [512, 256]
PAIRS = (COLUMNS + 1) * COLUMNS // 2
UNCOUNTED = 2
"""First steps that no way's rate counts: what is loaded, compiled or set up once."""
PREPARED = 16
"""Batches that plain PyTorch finds in memory, used in turn."""


def run(options: argparse.Namespace, rows_of_tables: int) -> dict[str, Any]:
    """All ways with ``rows_of_tables`` embedding rows in all."""
    folder = options.folder / f"dlrm-{rows_of_tables}"
    tables = [rows_of_tables // COLUMNS] * COLUMNS
    samples = (options.steps + UNCOUNTED) * options.batch
    schema = click_features(folder, samples, tables, DENSE)
    precisions = ["fp32"]
    if multiplies_bf16("cpu") or options.bf16:
        precisions.append("bf16")
    else:
        say("bf16: left out, as this CPU has neither AVX-512 BF16 nor AMX (--bf16 runs it anyway)")
    found: dict[str, Any] = {"table_rows": rows_of_tables, "precisions": precisions}
    for precision in precisions:
        other = partial(_way, PYTORCHS_OWN, options)
        ways = [_way({}, options, "ours", ours, folder, schema, precision)]
        if precision == "fp32":
            ways += [
                other("(a) stock Merlin, Adam", stock, folder, schema),
                other("(b) plain, Adagrad", plain, folder, schema, "adagrad"),
                other("(b) plain, SGD", plain, folder, schema, "sgd"),
            ]
        ways += [
            other("(c) linear layers alone", dense, precision, False),
            other("(c) and the dot products", dense, precision, True),
        ]
        alternate(ways, options.rounds)
        title = f"DLRM, {rows_of_tables:,} table rows, batch {options.batch}, {precision}"
        found[precision] = summary(title, "samples/s", ways, "ours")
    bound = gemm_rate() / flops_a_sample()
    say(
        f"bound in fp32: {flops_a_sample() / 1e6:.2f} MFLOP a sample in matrix products alone, at "
        f"this machine's best rate for one {bound:,.0f} samples/s"
    )
    found["bound_fp32"] = bound
    return found


def _way(
    settings: dict[str, str], options: argparse.Namespace, name: str, run: Any, *arguments: Any
) -> Way:
    return Way(name, lambda: apart(run, options, *arguments, settings=settings))


def flops_a_sample() -> float:
    """Operations of the linear layers: forward, and twice as many backward, less the inputs'."""
    bottom, top = [DENSE, *BOTTOM], [DIM + PAIRS, *TOP, 1]
    products = [a * b for widths in (bottom, top) for a, b in pairwise(widths)]
    return 2 * (3 * sum(products) - products[0])


def ours(options: argparse.Namespace, folder: Path, schema: Schema, precision: str) -> float:
    """``training.engine.fit`` as ``merlin-pipeline train`` calls it, without validation."""
    from training.batches import Batches
    from training.engine import fit
    from training.engine_settings import EngineSettings

    model = our_model(schema)
    settings = EngineSettings(
        batch_size=options.batch,
        max_steps=options.steps + UNCOUNTED,
        precision=precision,
        patience=None,
        threads=options.threads,
    )
    output = folder / "ours"
    asked: list[float] = []

    class Clocked(Batches):
        """Notes when each batch is asked for."""

        def __iter__(self):
            batches = super().__iter__()
            while True:
                asked.append(time.perf_counter())
                batch = next(batches, None)
                if batch is None:
                    return
                yield batch

    train = Clocked(folder / "train", schema, options.batch, shuffle=True)
    fit(model, train, None, settings, output, resume=False)
    shutil.rmtree(output)
    counted = asked[UNCOUNTED : options.steps + UNCOUNTED]
    return (len(counted) - 1) * options.batch / (counted[-1] - counted[0])


def our_model(schema: Schema) -> nn.Module:
    """The project's DLRM of these sizes."""
    from training import ranking
    from training.ranking.dlrm import DLRMSettings

    sizes = {"embedding_dim": DIM, "bottom_mlp": BOTTOM[:-1], "top_mlp": TOP}
    return ranking.build("dlrm", schema, DLRMSettings(**sizes), seed=0)


def stock(options: argparse.Namespace, folder: Path, schema: Schema) -> float:
    """merlin-models' ``DLRMModel`` under Lightning; optimizer, metrics and loader as they come."""
    import pytorch_lightning as lightning

    # It sets its own level when it is imported.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    class Clock(lightning.Callback):
        def on_train_start(self, *_):
            self.began = None

        def on_train_batch_start(self, trainer, module, batch, number):
            if number == UNCOUNTED:
                self.began = time.perf_counter()

        def on_train_end(self, *_):
            self.seconds = time.perf_counter() - self.began

    model = stock_model(schema)
    files = [str(path) for path in sorted((folder / "train").glob("*.parquet"))]
    dataset = Dataset(files, engine="parquet", schema=schema, cpu=True)
    loader = torch_loader().Loader(dataset, batch_size=options.batch, shuffle=True)
    model.initialize(torch_models().Batch.sample_from(loader, batch_size=2))
    clock = Clock()
    trainer = lightning.Trainer(
        max_steps=options.steps + UNCOUNTED,
        max_epochs=-1,
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    loader.stop()
    return options.steps * options.batch / clock.seconds


def stock_model(schema: Schema) -> nn.Module:
    """Merlin's ``DLRMModel``, not yet initialised.

    Its ``setup`` and ``teardown`` crash under today's Lightning and are left out, so it has to be
    initialised by hand.
    """
    mm = torch_models()

    class Stock(mm.DLRMModel):
        def setup(self, stage):
            pass

        def teardown(self, stage):
            pass

    return Stock(
        schema.excluding_by_tag(Tags.TARGET),
        dim=DIM,
        bottom_block=mm.MLPBlock(BOTTOM),
        top_block=mm.MLPBlock(TOP),
        output_block=mm.BinaryOutput(schema.select_by_tag(Tags.TARGET).first),
    )


class Plain(nn.Module):
    """DLRM in plain PyTorch, as its paper's own code writes it: a bag and a call for every table.

    Naumov et al., 2019 (arXiv:1906.00091), section 4.
    """

    def __init__(self, tables: list[int]) -> None:
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(rows, DIM, mode="sum", sparse=True) for rows in tables
        )
        self.dense = DenseLayers(dots=True)

    def forward(self, numbers, ids, offsets):
        vectors = [bag(column, offsets) for bag, column in zip(self.bags, ids, strict=True)]
        return self.dense(numbers, vectors)


class DenseLayers(nn.Module):
    """The two MLPs, and the dot products between them; without those, ``rest`` stands for them."""

    def __init__(self, dots: bool) -> None:
        super().__init__()
        self.bottom = _mlp([DENSE, *BOTTOM])
        self.top = nn.Sequential(_mlp([DIM + PAIRS, *TOP]), nn.Linear(TOP[-1], 1))
        self.dots = dots
        self.rows, self.columns = torch.tril_indices(COLUMNS + 1, COLUMNS + 1, offset=-1)

    def forward(self, numbers, rest):
        bottom = self.bottom(numbers)
        if self.dots:
            stacked = torch.cat([bottom, *rest], dim=1).view(len(bottom), -1, DIM)
            products = torch.bmm(stacked, stacked.transpose(1, 2))
            rest = products[:, self.rows, self.columns]
        return self.top(torch.cat([bottom, rest], dim=1)).squeeze(1)


def _mlp(widths: list[int]) -> nn.Sequential:
    return nn.Sequential(
        *(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU()))
    )


def plain(options: argparse.Namespace, folder: Path, schema: Schema, kind: str) -> float:
    """:class:`Plain` with torch's SGD or Adagrad, on batches that lie in memory."""
    from training.batches import Batches

    columns = schema.select_by_tag(Tags.CATEGORICAL)
    model = Plain([int(column.int_domain.max) + 1 for column in columns])
    optimizer = {"adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}[kind](
        model.parameters(), lr=0.01
    )
    batches = []
    for inputs, target in Batches(folder / "train", schema, options.batch):
        numbers = torch.stack([inputs[f"I{i + 1}"] for i in range(DENSE)], dim=1)
        ids = [inputs[name].long() for name in columns.column_names]
        batches.append((numbers, ids, target))
        if len(batches) == PREPARED:
            break
    offsets = torch.arange(options.batch)

    def step(number: int) -> None:
        numbers, ids, target = batches[number % len(batches)]
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(numbers, ids, offsets), target)
        loss.backward()
        optimizer.step()
        loss.item()

    return timed_steps(step, options.steps, options.batch)


def dense(options: argparse.Namespace, precision: str, dots: bool) -> float:
    """Forward, backward and Adagrad of :class:`DenseLayers` on random tensors: the limit."""
    model = DenseLayers(dots)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
    numbers, target = torch.randn(options.batch, DENSE), torch.rand(options.batch).round()
    shape = (options.batch, COLUMNS * DIM) if dots else (options.batch, PAIRS)
    rest = torch.randn(shape, requires_grad=True)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    def step(number: int) -> None:
        optimizer.zero_grad()
        rest.grad = None
        with autocast:
            logits = model(numbers, [rest] if dots else rest)
        loss = binary_cross_entropy_with_logits(logits.float(), target)
        loss.backward()
        optimizer.step()
        loss.item()

    return timed_steps(step, options.steps, options.batch)
