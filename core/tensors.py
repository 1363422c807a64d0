"""Named tensors in one safetensors file: written as a stream, read in place, checked whole.

The layout is that of the safetensors format (https://github.com/huggingface/safetensors): the
header's length in 8 bytes, a JSON header, then the tensors one after another; any reader of the
format can read it. The header's metadata also holds ``sha256``, over the whole file with that hash
itself as zeros, and ``aliases``, the names whose tensor stands in the file under another one.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import Field

from core.artifacts import atomic_path
from core.errors import UserError
from core.strict import ClosedRecord, checked, parse

CHUNK_BYTES = 16 << 20
"""What is in memory at a time of a tensor that is written or read."""
LONGEST_HEADER = 100_000_000
LARGEST_LENGTH = 1 << 48
HASH_PLACE = "0" * 64

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Pieces:
    """A tensor that is nowhere whole, such as a table sharded over processes.

    ``pieces`` is called once and gives tensors of ``dtype`` that are the whole one when laid end
    to end along the first dimension.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[torch.Tensor]]


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor | Pieces],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named tensors as one safetensors file, atomically.

    Names of one and the same tensor (tied weights) share one copy. A tensor goes through memory in
    pieces of ``CHUNK_BYTES``, so it may be a map of a file larger than memory, or lie on a GPU.
    """
    kept, aliases = _without_copies(tensors)
    # Aligned to their own size, as the format asks, since larger items come first.
    order = sorted(kept, key=lambda name: (-kept[name].dtype.itemsize, name))
    about = {**(metadata or {}), "sha256": HASH_PLACE}
    if aliases:
        about["aliases"] = json.dumps(aliases, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": dict(sorted(about.items()))}
    end = 0
    for name in order:
        start, end = end, end + _size(kept[name])
        header[name] = {
            "dtype": NAMES[kept[name].dtype],
            "shape": list(kept[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    with _naming(path), atomic_path(path) as partial, open(partial, "wb") as file:
        found = hashlib.sha256()
        for piece in (len(text).to_bytes(8, "little"), text):
            file.write(piece)
            found.update(piece)
        for name in order:
            written = 0
            for data in _bytes_of(kept[name]):
                file.write(data)
                found.update(data)
                written += data.nbytes
            if written != _size(kept[name]):
                raise ValueError(f"{name}: {written} bytes came, {_size(kept[name])} were said")
        file.seek(8 + text.index(f'"sha256":"{HASH_PLACE}"'.encode()) + len('"sha256":"'))
        file.write(found.hexdigest().encode())


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a file, aliases among them, and its metadata.

    Raises:
        UserError: it is absent, cut off or altered.
    """
    file = TensorFile(path)
    file.check()
    return dict(file), file.metadata


class TensorFile(Mapping[str, torch.Tensor]):
    """A safetensors file whose tensors are read when they are asked for.

    Raises:
        UserError: it is absent, or not a whole safetensors file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise ValueError("it is no plain file")
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(size - 8, LONGEST_HEADER):
                    raise ValueError("its header is cut off")
                self._header = file.read(length)
            self._start = 8 + length
            self._entries, metadata = _parsed(self.path, self._header, size - self._start)
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise UserError(f"{self.path}: not a whole safetensors file ({error})") from None
        self.nbytes = size - self._start
        self._sha256 = metadata.pop("sha256", None)
        self._aliases: dict[str, str] = json.loads(metadata.pop("aliases", "{}"))
        self.metadata: dict[str, str] = metadata

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from self._aliases

    def __len__(self) -> int:
        return len(self._entries) + len(self._aliases)

    def __getitem__(self, name: str) -> torch.Tensor:
        dtype, shape, _, _ = self._entry(name)
        tensor = torch.empty(shape, dtype=dtype)
        self.copy_to(name, tensor)
        return tensor

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives tensors other names, by those that they have in the file."""
        self._entries = {names.get(name, name): entry for name, entry in self._entries.items()}
        self._aliases = {
            names.get(name, name): names.get(of, of) for name, of in self._aliases.items()
        }

    def dtype(self, name: str) -> torch.dtype:
        return self._entry(name)[0]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name)[1]

    @torch.no_grad()
    def copy_to(self, name: str, tensor: torch.Tensor) -> None:
        """Fills ``tensor``, of the same shape, with the one in the file, piece by piece."""
        dtype, shape, start, end = self._entry(name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: {shape} in the file, {tuple(tensor.shape)} asked for")
        flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else None
        whole = torch.empty(shape, dtype=dtype).reshape(-1) if flat is None else flat
        with open(self.path, "rb", buffering=0) as file:
            for at, piece in self._pieces(file, start, end):
                items = piece.view(dtype)
                first = at // dtype.itemsize
                whole[first : first + len(items)].copy_(items)
        if flat is None:
            tensor.copy_(whole.reshape(shape))

    def rows(self, name: str, low: int, high: int) -> torch.Tensor:
        """A tensor's rows from ``low`` up to ``high``."""
        dtype, shape, start, _ = self._entry(name)
        size = dtype.itemsize * _product(shape[1:])
        found = torch.empty((high - low, *shape[1:]), dtype=dtype)
        flat = found.view(-1)
        with open(self.path, "rb", buffering=0) as file:
            for at, piece in self._pieces(file, start + low * size, start + high * size):
                items = piece.view(dtype)
                flat[at // dtype.itemsize :][: len(items)] = items
        return found

    @property
    def has_checksum(self) -> bool:
        """Whether it holds its own hash, as all files that :func:`write_tensors` wrote do."""
        return self._sha256 is not None

    def check(self, required: bool = False) -> None:
        """Reads the file once, against its own hash.

        Args:
            required: whether a file without a hash, such as other programs write, is refused.

        Raises:
            UserError: some byte is not what was written.
        """
        if self._sha256 is None:
            if required:
                raise UserError(f"{self.path}: altered since it was written (it has no checksum)")
            return
        found = hashlib.sha256(len(self._header).to_bytes(8, "little"))
        found.update(self._header.replace(self._sha256.encode(), HASH_PLACE.encode(), 1))
        with open(self.path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for _, piece in self._pieces(file, 0, size - self._start):
                found.update(piece.numpy().data)
        if found.hexdigest() != self._sha256:
            raise UserError(
                f"{self.path}: altered since it was written (its checksum does not match)"
            )

    def _entry(self, name: str) -> tuple[torch.dtype, tuple[int, ...], int, int]:
        return self._entries[self._aliases.get(name, name)]

    def _pieces(self, file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, torch.Tensor]]:
        """The data's bytes from ``start`` to ``end``, each piece with its distance from start."""
        buffer = torch.empty(min(CHUNK_BYTES, end - start), dtype=torch.uint8)
        file.seek(self._start + start)
        for at in range(0, end - start, CHUNK_BYTES):
            piece = buffer[: min(CHUNK_BYTES, end - start - at)]
            view, filled = memoryview(piece.numpy()), 0
            while filled < len(view):
                count = file.readinto(view[filled:])
                if not count:
                    raise UserError(f"{self.path}: not a whole safetensors file (it was cut off)")
                filled += count
            yield at, piece


class _Entry(ClosedRecord):
    """What a header says of one tensor."""

    dtype: str
    shape: Annotated[list[Annotated[int, Field(ge=0, le=LARGEST_LENGTH)]], Field(max_length=8)]
    data_offsets: Annotated[list[int], Field(min_length=2, max_length=2)]


def _parsed(path: Path, header: bytes, size: int) -> tuple[dict[str, tuple], dict[str, str]]:
    """A header's entries and metadata; ValueError where it does not fit ``size`` bytes of data."""
    try:
        entries = parse(header, path)
        if not isinstance(entries, dict):
            raise ValueError("its header is no JSON object")
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise ValueError("its metadata are no texts")
        entries = {name: checked(_Entry, entry, repr(name)) for name, entry in entries.items()}
        aliases = parse(metadata.get("aliases", "{}"), "aliases")
    except UserError as error:
        raise ValueError(f"its header is damaged: {error}") from None
    placed: dict[str, tuple] = {}
    expected = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in DTYPES:
            raise ValueError(f"its header is damaged: {name!r} is of type {entry.dtype!r}")
        dtype, shape = DTYPES[entry.dtype], tuple(entry.shape)
        start, end = entry.data_offsets
        if start != expected or end - start != dtype.itemsize * _product(shape):
            raise ValueError(f"the place of {name!r} is wrong")
        if _product(tuple(max(1, length) for length in shape)) > LARGEST_LENGTH:
            raise ValueError(f"the shape of {name!r} is too large")
        placed[name] = dtype, shape, start, end
        expected = end
    if expected != size:
        raise ValueError(f"{expected:,} bytes of tensors expected, {size:,} found")
    if not isinstance(aliases, dict) or not all(
        isinstance(name, str) and name in placed for name in aliases.values()
    ):
        raise ValueError("an alias of nothing")
    if aliases.keys() & placed.keys():
        raise ValueError("an alias of the name of a tensor")
    return placed, metadata


def _without_copies(
    tensors: Mapping[str, torch.Tensor | Pieces],
) -> tuple[dict[str, torch.Tensor | Pieces], dict[str, str]]:
    """The different tensors, each under its first name, and the other names of each."""
    first: dict[Any, str] = {}
    kept: dict[str, torch.Tensor | Pieces] = {}
    aliases = {}
    for name, tensor in tensors.items():
        same = id(tensor)
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
            same = (*place, tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        if first.setdefault(same, name) == name:
            kept[name] = tensor
        else:
            aliases[name] = first[same]
    return kept, aliases


def _bytes_of(tensor: torch.Tensor | Pieces) -> Iterator[memoryview]:
    """A tensor's bytes in order, a chunk at a time."""
    if isinstance(tensor, Pieces):
        for piece in tensor.pieces():
            yield from _bytes_of(piece)
        return
    tensor = tensor.detach()
    if not tensor.is_contiguous():
        rows = max(1, CHUNK_BYTES * len(tensor) // max(1, _size(tensor)))
        for piece in tensor.split(rows):
            yield from _bytes_of(piece.contiguous())
        return
    items = CHUNK_BYTES // tensor.dtype.itemsize
    # Of no or one value any stride counts as contiguous, such as NumPy's 0, which bytes refuse.
    for piece in tensor.as_strided((tensor.numel(),), (1,)).split(items):
        # Viewed as bytes, since NumPy has no bfloat16.
        yield memoryview(piece.cpu().view(torch.uint8).numpy())


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """What the disk refuses while a file is written does not say which file it was."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _size(tensor: torch.Tensor | Pieces) -> int:
    return tensor.dtype.itemsize * _product(tensor.shape)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product
