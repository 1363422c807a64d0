"""XLNet over sessions, trained by masking, from Transformers4Rec's blocks.

Yang et al., XLNet, 2019; de Souza Pereira Moreira et al., Transformers4Rec, RecSys 2021.
"""

from collections.abc import Iterator

import torch

from core.errors import UserError
from core.merlin import Schema, Tags, transformers4rec
from training.dropout import use_cheap_dropout
from training.sessions.base import SessionModel, cardinality, item_column, side_features
from training.sessions.masking import last_event_masking
from training.sessions.ragged import (
    FIRST_ITEM,
    Batch,
    Windows,
    every_step,
    pad,
    windows_through,
)
from training.sessions.settings import XLNetSettings

ALL_ITEMS_AT_MOST = 10_000
NEGATIVES = 2_000
"""Where the catalogue is larger than the first, training compares with this many items."""


class XLNet(SessionModel):
    """Transformers4Rec's input block, XLNet body and next-item head with tied weights.

    Every step of a session trains as its own sequence: the events before it, and a mask in its
    place, exactly what the model meets when it is asked. The whole interaction is hidden, so no
    side feature of the answer is seen.
    """

    def __init__(self, schema: Schema, settings: XLNetSettings):
        super().__init__(schema, settings, settings.max_length)
        self.columns += _chosen_side_features(schema, settings)
        tr = transformers4rec()
        inputs = _input_block(schema.select_by_name(self.columns), settings)
        body = tr.SequentialBlock(
            inputs, tr.TransformerBlock(_xlnet_config(settings), masking=inputs.masking)
        )
        negatives = _negatives(settings, self.num_items)
        self.task = tr.NextItemPredictionTask(
            weight_tying=True,
            # Its default metrics are module-level objects that all tasks would share.
            metrics=[],
            loss=torch.nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing),
            task_block=tr.Block(Scale(1 / settings.temperature), [-1, -1, settings.d_model]),
            # The block above has done it, over d_model rather than num_items values a row.
            softmax_temperature=0,
            sampled_softmax=negatives > 0,
            max_n_samples=max(negatives, 1),
        )
        self.head = tr.Head(body, self.task, inputs=inputs)
        self.masking = inputs.masking
        use_cheap_dropout(self.head)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the hidden events; see :meth:`SessionModel.loss`."""
        return self.weighted_loss(batch)[0]

    def weighted_loss(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """The loss, and over how many hidden events it is the mean."""
        sessions = self.sessions(batch)
        steps = every_step(sessions)
        steps = steps[sessions.columns[self.item][steps] >= FIRST_ITEM]
        # The sequence holds the events before the target and the target itself.
        windows = windows_through(sessions, steps, self.max_length + 1)
        if not len(windows):
            return self.masking.masked_item_embedding.sum() * 0.0, 0
        parts = [self._encode(pad(sessions, group)) for group in _by_length(windows)]
        hidden, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        return self._predict_hidden(hidden, targets)["loss"], len(targets)

    def scores(self, prefixes: dict[str, torch.Tensor]) -> torch.Tensor:
        """See :meth:`SessionModel.scores`: logits at a mask put after the last event."""
        output = self.head(self.head.body(prefixes))
        return output[self.task.task_name] if isinstance(output, dict) else output

    def _encode(self, columns: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hides events; what the body makes of them, ``(hidden, d_model)``, and what they were."""
        # Transformers4Rec's own flag, rather than train() and eval(), says that there are targets.
        encoded = self.head.body(columns, training=True)
        hidden = self.masking.mask_schema
        return encoded[hidden], self.masking.masked_targets[hidden]

    def _predict_hidden(self, hidden: torch.Tensor, targets: torch.Tensor) -> dict:
        """The head's loss and predictions, for all hidden events as if they were one sequence."""
        self.masking.masked_targets = targets[None]
        return self.head(hidden[None], training=True)


def _negatives(settings: XLNetSettings, num_items: int) -> int:
    if settings.negatives is not None:
        return settings.negatives
    return 0 if num_items <= ALL_ITEMS_AT_MOST else NEGATIVES


class Scale(torch.nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``values * factor``."""
        return values * self.factor


def _chosen_side_features(schema: Schema, settings: XLNetSettings) -> list[str]:
    known = side_features(schema)
    if settings.side_features is None:
        return known
    missing = [name for name in settings.side_features if name not in known]
    if missing:
        raise UserError(
            f"side_features: the features have no list column {', '.join(map(repr, missing))} "
            f"(found: {', '.join(known) or 'none'}); name only columns that the workflow makes"
        )
    return list(settings.side_features)


def _input_block(schema: Schema, settings: XLNetSettings):
    """Embeddings and continuous columns, concatenated and projected to ``d_model``, then masked."""
    tr = transformers4rec()
    item = item_column(schema).name
    categorical = schema.select_by_tag(Tags.CATEGORICAL)

    def initialise(weight: torch.Tensor) -> None:
        torch.nn.init.normal_(weight, std=settings.embedding_std)

    for column in categorical:
        cardinality(column)
    # Transformers4Rec takes the longest list from the schema, which need not say it.
    longest = settings.max_length + 1
    schema = Schema([column.with_shape((None, (0, longest))) for column in schema])
    projection = None
    if len(schema) > 1:
        # Linear: Transformers4Rec's d_output would put a ReLU before the transformer.
        projection = tr.MLPBlock([settings.d_model], activation=None)
    return tr.TabularSequenceFeatures.from_schema(
        schema,
        max_sequence_length=longest,
        aggregation="concat",
        embedding_dims={
            column.name: settings.d_model if column.name == item else settings.side_dim
            for column in categorical
        },
        embeddings_initializers={column.name: initialise for column in categorical},
        projection=projection,
        masking=last_event_masking()(settings.d_model, settings.mlm_probability, FIRST_ITEM),
    )


def _xlnet_config(settings: XLNetSettings):
    return transformers4rec().XLNetConfig.build(
        d_model=settings.d_model,
        n_head=settings.heads,
        n_layer=settings.layers,
        total_seq_length=settings.max_length + 1,
        dropout=settings.dropout,
        initializer_range=settings.weight_std,
        # Transformers4Rec's 0.03 is larger than the variance of what is normalised at the start.
        layer_norm_eps=1e-12,
        use_mems_eval=False,
    )


def _by_length(windows: Windows) -> Iterator[Windows]:
    """The windows in groups of similar length, so that little of the work goes into padding."""
    longest = int(windows.lengths.max()) if len(windows) else 0
    below, width = 0, 4
    while below < longest:
        group = (windows.lengths > below) & (windows.lengths <= width)
        if group.any():
            yield windows[group]
        below, width = width, width * 2
