import json
import random
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from core import tensors
from core.errors import UserError
from core.tensors import Pieces, TensorFile, read_tensors, write_tensors


def example():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 4, generator=generator)
    return {
        "weight": weight,
        "turned": weight.T,
        "every_other": weight[::2],
        "half": weight.bfloat16(),
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "steps": torch.tensor(12),
        "nothing": torch.empty(0, 3),
    }


@pytest.fixture(params=[16 << 20, 24], ids=["one piece", "many pieces"])
def piece_bytes(request, monkeypatch):
    monkeypatch.setattr(tensors, "CHUNK_BYTES", request.param)


def test_any_reader_of_the_format_reads_it(tmp_path, piece_bytes):
    path = tmp_path / "x.safetensors"
    write_tensors(path, example(), {"about": "x"})
    found, metadata = read_tensors(path)
    assert metadata == {"about": "x"}
    for read in (found, load_file(path)):
        assert read.keys() == example().keys()
        for name, tensor in example().items():
            assert torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype


def test_the_same_tensors_give_the_same_bytes(tmp_path, piece_bytes):
    one, two = tmp_path / "one", tmp_path / "two"
    write_tensors(one, example(), {"b": "1", "a": "2"})
    write_tensors(two, example(), {"a": "2", "b": "1"})
    assert one.read_bytes() == two.read_bytes()


def test_tied_tensors_are_stored_once(tmp_path):
    table = torch.randn(500, 8)
    path = tmp_path / "x.safetensors"
    tied = {"a": table, "b": table, "c": table.view(500, 8), "first_rows": table[:500]}
    write_tensors(path, {**tied, "other": table[:499], "equal": table.clone()})
    assert path.stat().st_size < 3 * table.nbytes + 1000
    assert sorted(load_file(path)) == ["a", "equal", "other"]
    found, metadata = read_tensors(path)
    assert all(torch.equal(found[name], table) for name in [*tied, "equal"]) and metadata == {}


def test_pieces_are_laid_end_to_end(tmp_path, piece_bytes):
    whole = torch.arange(30.0).reshape(10, 3)
    pieces = Pieces(whole.dtype, (10, 3), lambda: iter(whole.split(4)))
    write_tensors(tmp_path / "x", {"table": pieces})
    assert torch.equal(read_tensors(tmp_path / "x")[0]["table"], whole)
    with pytest.raises(ValueError, match="table: 48 bytes came, 120 were said"):
        write_tensors(tmp_path / "y", {"table": Pieces(whole.dtype, (10, 3), lambda: [whole[:4]])})
    assert not (tmp_path / "y").exists()


def test_a_tensor_is_filled_where_it_lies(tmp_path, piece_bytes):
    write_tensors(tmp_path / "x", example())
    file = TensorFile(tmp_path / "x")
    memory = torch.zeros(7, 8)
    for place in (memory[:, ::2], torch.zeros(7, 4), torch.zeros(7, 4, dtype=torch.float64)):
        file.copy_to("weight", place)
        assert torch.equal(place.float(), example()["weight"])
    assert torch.equal(memory[:, 1::2], torch.zeros(7, 4))
    with pytest.raises(ValueError, match="weight"):
        file.copy_to("weight", torch.zeros(4, 7))


def test_every_altered_or_missing_byte_is_noticed(tmp_path, piece_bytes):
    path = tmp_path / "x.safetensors"
    write_tensors(path, example(), {"about": "x"})
    whole = path.read_bytes()
    draw = random.Random(0)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = read_tensors(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            # Only the name of the hash itself can be lost without being missed.
            assert b'"sha256"' not in changed and found[0].keys() == example().keys()
    for length in draw.sample(range(len(whole)), 60):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read_tensors(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_tensors(path)


def test_a_header_that_lies_is_refused(tmp_path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for header in (
        [],
        {"a": 3},
        {"a": {**entry, "dtype": "F31"}},
        {"a": {**entry, "shape": [3]}},
        {"a": entry, "b": {**entry, "data_offsets": [4, 12]}},
        {"a": entry, "__metadata__": {"aliases": '{"b": "c"}'}},
        {"a": entry, "__metadata__": {"aliases": "{"}},
        {"a": entry, "__metadata__": {"aliases": "[]"}},
    ):
        text = json.dumps(header).encode()
        (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(UserError, match="x: not a whole safetensors file"):
            read_tensors(tmp_path / "x")


def test_what_others_wrote_is_read(tmp_path):
    from safetensors.torch import save_file

    contiguous = {name: tensor.contiguous() for name, tensor in example().items()}
    save_file({k: v.clone() for k, v in contiguous.items()}, tmp_path / "x", metadata={"by": "us"})
    found, metadata = read_tensors(tmp_path / "x")
    assert metadata == {"by": "us"}
    assert all(torch.equal(found[name], tensor) for name, tensor in contiguous.items())


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match="absent: no such file"):
        read_tensors(tmp_path / "absent")


def test_a_full_disk_is_told_with_the_file_s_name(tmp_path):
    code = (
        "import resource, sys, torch; from core.tensors import write_tensors\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_tensors(sys.argv[1], {'a': torch.zeros(1000)})\n"
        "except OSError as error: print(error.errno, error.filename)"
    )
    path = tmp_path / "x"
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["27", str(path)]
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_bounded(tmp_path):
    """A mapped table of 300 MB is written and read back within 100 MB of memory of the process."""
    size = 300 << 20
    with open(tmp_path / "table", "wb") as file:
        file.truncate(size)
    mapped = torch.from_file(str(tmp_path / "table"), shared=True, size=size // 4)
    before = anonymous_bytes()
    peak = []
    pieces = Pieces(mapped.dtype, mapped.shape, lambda: watched(mapped, peak))
    write_tensors(tmp_path / "x", {"table": pieces})
    file = TensorFile(tmp_path / "x")
    file.check()
    file.copy_to("table", mapped)
    peak.append(anonymous_bytes())
    assert max(peak) - before < 100 << 20


def watched(tensor, peak):
    for piece in tensor.split(8 << 20):
        yield piece
        peak.append(anonymous_bytes())


def anonymous_bytes():
    """Memory of this process that no file stands behind."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["RssAnon"].split()[0]) * 1024
