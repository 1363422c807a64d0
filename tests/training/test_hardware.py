import pytest
import torch

from core.errors import UserError
from tests.training import click_log
from tests.training.small_model import Small, same_weights, settings, train, write_splits
from training import hardware, ranking
from training.ranking.dlrm import DLRMSettings


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("features"))


@pytest.fixture
def machine(monkeypatch):
    """Sets what torch says of the machine."""

    def has(cuda=False, avx512_bf16=False, amx=False, cuda_bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: cuda_bf16)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    return has


@pytest.mark.parametrize(
    ("offers", "device", "precision"),
    [
        ({}, "cpu", "fp32"),
        ({"avx512_bf16": True, "amx": True}, "cpu", "fp32"),
        ({"cuda": True}, "cuda", "fp32"),
        ({"cuda": True, "cuda_bf16": True}, "cuda", "bf16"),
    ],
)
def test_auto_is_what_the_machine_offers(machine, offers, device, precision):
    machine(**offers)
    found = hardware.resolve(settings(device="auto", precision="auto"))
    assert (found.device, found.precision) == (device, precision)
    shape = found.that_shape_the_result()
    assert (shape["device"], shape["precision"]) == (device, precision)
    assert hardware.resolve(settings(device="cpu", precision="fp32")).precision == "fp32"


def test_bf16_that_is_emulated_is_told(machine, capsys):
    machine()
    hardware.resolve(settings(precision="bf16"))
    assert "bf16: this machine has to emulate it" in capsys.readouterr().out
    machine(amx=True)
    hardware.resolve(settings(precision="bf16"))
    assert capsys.readouterr().out == ""


def test_cuda_that_is_not_there(machine, splits, tmp_path):
    machine()
    with pytest.raises(UserError, match=r"train\.device: cuda was asked for"):
        train(splits, tmp_path, device="cuda")


def test_another_precision_starts_afresh(machine, splits, tmp_path, capsys):
    machine()
    train(splits, tmp_path, epochs=1, precision="auto")
    capsys.readouterr()
    again, _ = train(splits, tmp_path, epochs=1, precision="fp32")
    assert again.steps == 0  # auto meant fp32
    machine(avx512_bf16=True)
    again, _ = train(splits, tmp_path, epochs=1, precision="bf16")
    assert "settings.precision: fp32, now bf16" in capsys.readouterr().out and again.steps


def test_without_a_compiler_compile_says_so(monkeypatch, splits, tmp_path):
    from torch._inductor import cpp_builder

    def none(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(UserError, match=r"train\.compile: torch finds no C\+\+ compiler"):
        train(splits, tmp_path, compile=True)


def compiled_parts(model):
    return [name for name, part in model.named_modules() if part._compiled_call_impl is not None]


def test_dense_layers_are_compiled_and_tables_are_not():
    model = ranking.build("dlrm", click_log.schema(), DLRMSettings(bottom_mlp=[8], top_mlp=[8]), 1)
    names = list(model.state_dict())
    hardware.compile_dense_layers(model, torch.device("cpu"), ragged=False)
    found = compiled_parts(model)
    assert found and list(model.state_dict()) == names
    under = {name for name, _ in model.named_parameters() if name.startswith(tuple(found))}
    assert under == {name for name, weight in model.named_parameters() if "table" not in name}


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(splits, tmp_path):
    torch._dynamo.reset()
    plain, _ = train(splits, tmp_path / "plain", dropout_free(), epochs=1)
    compiled, _ = train(splits, tmp_path / "compiled", dropout_free(), epochs=1, compile=True)
    again, _ = train(splits, tmp_path / "again", dropout_free(), epochs=1, compile=True)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    assert compiled_parts(compiled) == ["linear"] and same_weights(compiled, again)


def dropout_free():
    model = Small()
    model.dropout.p = 0.0
    return model
