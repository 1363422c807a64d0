"""Ratings → a user at a time: what the user chose in training, and what was held out."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from core.errors import UserError
from core.merlin import Schema, Tags
from training.batches import Batch, Batches
from training.sessions.ragged import FIRST_ITEM

READ_ROWS = 65_536
FIRST_CODE = FIRST_ITEM
"""Codes below it are no user or item of the training log: padding, null, out of vocabulary."""


class InteractionColumns(NamedTuple):
    """Names of the columns that interactions are made of."""

    user: str
    item: str
    target: str
    explicit: bool
    """Whether the target is a rating; otherwise it is 0 or 1."""


def interaction_columns(schema: Schema, model: str) -> InteractionColumns:
    """The columns by their tags.

    Raises:
        UserError: naming ``model`` and what the features lack.
    """
    found = []
    for tag in (Tags.USER_ID, Tags.ITEM_ID, Tags.TARGET):
        columns = schema.select_by_tag(tag)
        if len(columns) != 1:
            names = ", ".join(columns.column_names) or "none"
            raise UserError(
                f"model {model}: needs one column tagged {tag.name}, the features have {names}; "
                "it is for features of the recipe interactions"
            )
        found.append(columns.first)
    user, item, target = found
    explicit = Tags.BINARY_CLASSIFICATION not in target.tags
    return InteractionColumns(user.name, item.name, target.name, explicit)


class Histories:
    """Items of each user, as one array and where each user's begin.

    Only known users and items count, and of 0/1 targets only the ones; a pair counts once.

    Attributes:
        items: codes by user, ``(pairs,)``, int64.
        offsets: user ``u`` has ``items[offsets[u]:offsets[u + 1]]``, ``(users + 1,)``.

    Args:
        folders: of feature Parquet, such as those of several splits.
    """

    def __init__(
        self, folders: Sequence[str | Path], schema: Schema, columns: InteractionColumns
    ) -> None:
        read = [Batches(folder, schema, READ_ROWS, shuffle=False) for folder in folders]
        self.fingerprint = "".join(batches.fingerprint for batches in read)
        self.users = int(schema[columns.user].int_domain.max) + 1
        num_items = int(schema[columns.item].int_domain.max) + 1
        pairs = []
        for inputs, targets in itertools.chain.from_iterable(read):
            user, item = (inputs[name].long() for name in (columns.user, columns.item))
            kept = (user >= FIRST_CODE) & (item >= FIRST_CODE)
            if not columns.explicit:
                kept &= targets > 0
            pairs.append((user[kept] * num_items + item[kept]).unique())
        found = torch.cat(pairs).unique()
        self.items = found % num_items
        counts = torch.bincount(found // num_items, minlength=self.users)
        self.offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))

    def __len__(self) -> int:
        """The pairs."""
        return len(self.items)

    def of(self, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The items of ``users`` ``(n,)`` as values and offsets ``(n + 1,)``."""
        starts, ends = self.offsets[users], self.offsets[users + 1]
        lengths = ends - starts
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        places = torch.arange(int(offsets[-1])) + (starts - offsets[:-1]).repeat_interleave(lengths)
        return self.items[places], offsets

    @property
    def active(self) -> torch.Tensor:
        """The users who have an item, rising."""
        return (self.offsets.diff() > 0).nonzero()[:, 0]


class UserBatches:
    """Batches of users, with the door of :class:`training.batches.Batches`.

    Each item is ``(inputs, targets)``: inputs have the user's code under its name, and the items
    of training as ``ITEM__values`` and ``ITEM__offsets``; targets, where something is held out,
    have the items held out under the same two names. An item of both is not held out.

    Args:
        train: what the users chose.
        held_out: what they chose later; users without any are left out. None: for training.
        batch_size: users of a batch.
        shuffle: permute the users anew in every epoch.

    Raises:
        UserError: no user is left.
    """

    chunk_rows = 0

    def __init__(
        self,
        folder: str | Path,
        schema: Schema,
        columns: InteractionColumns,
        train: Histories,
        held_out: Histories | None,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        self.folder, self.schema, self.columns = Path(folder), schema, columns
        self.train, self.held_out = train, held_out
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.users = (train if held_out is None else held_out).active
        self.rows = len(self.users)
        self.epoch = self.batch = 0
        if not self.rows:
            what = "has an item held out" if held_out is not None else "has an item"
            raise UserError(f"{folder}: no known user {what}; check the split's settings")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.rows // self.batch_size)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what the users chose and what is held out."""
        found = [self.train.fingerprint]
        if self.held_out is not None:
            found.append(self.held_out.fingerprint)
        return hashlib.sha256("".join(found).encode()).hexdigest()

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """The next iteration starts at ``batch`` of ``epoch``, both from 0."""
        self.epoch, self.batch = epoch, batch

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(self.rows)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        users = self.users[torch.from_numpy(order)].split(self.batch_size)
        for chosen in users[self.batch :]:
            self.batch += 1
            if self.batch == len(self):
                self.epoch, self.batch = self.epoch + 1, 0
            yield self._batch(chosen)

    def _batch(self, users: torch.Tensor) -> Batch:
        name = self.columns.item
        values, offsets = self.train.of(users)
        inputs = {
            self.columns.user: users,
            f"{name}__values": values,
            f"{name}__offsets": offsets,
        }
        if self.held_out is None:
            return inputs, None
        held, held_offsets = self.held_out.of(users)
        return inputs, {f"{name}__values": held, f"{name}__offsets": held_offsets}


def multi_hot(values: torch.Tensor, offsets: torch.Tensor, width: int) -> torch.Tensor:
    """Ragged codes → 0/1 rows, ``(batch, width)``, float32."""
    rows = torch.arange(len(offsets) - 1, device=values.device).repeat_interleave(offsets.diff())
    found = torch.zeros(len(offsets) - 1, width, device=values.device)
    found[rows, values.long()] = 1.0
    return found
