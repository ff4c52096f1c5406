"""bfloat16 is used where it is right: wrong layers are found, kept in float32, and nothing else is disturbed."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from codec.training.startup.precision import Precision, check_bfloat16, choose_precision, keep_float32
from tiny_run import messages, tidied, tiny_codec, tiny_trainer

BFLOAT16 = choose_precision("bfloat16", "cpu")


class _Spoil(torch.autograd.Function):
    """The identity, whose gradient is noise."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return torch.randn(gradient.shape, generator=torch.Generator().manual_seed(3)).to(gradient)


class _WrongConv1d(nn.Conv1d):
    """A convolution that autocast gets wrong, in the way that `wrong` says."""

    wrong = "output"

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if self.wrong == "input gradient":
            return super().forward(_Spoil.apply(x))
        if self.wrong == "weight gradient":
            return F.conv1d(x, _Spoil.apply(self.weight), self.bias)
        y = super().forward(x)
        if self.wrong == "one length":
            return y + 1 if x.shape[-1] == 40 else y
        return y * float("nan") if self.wrong == "nan" else y + torch.roll(y, 1, -1).detach()


class _Nested(nn.Module):
    """Convolutions at several depths, some of them called with more than one shape."""

    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.inlet = nn.Conv1d(1, 8, 3)
        self.block = nn.Sequential(nn.ELU(), _WrongConv1d(8, 8, 5), nn.ELU(), weight_norm(nn.Conv1d(8, 8, 5)))
        self.block[1].wrong = wrong
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.inlet(x))
        return self.norm(self.block(F.pad(y, (4, 4))))


def _relative(estimate: Tensor, reference: Tensor) -> float:
    return ((estimate.double() - reference.double()).norm() / reference.double().norm()).item()


def _run(module: nn.Module, x: Tensor, autocast: bool) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of input and parameters, computed by plain torch."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = module(x)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    return y.detach(), list(torch.autograd.grad(y.float(), [x, *module.parameters()], slope))


@pytest.mark.parametrize("wrong", ["output", "input gradient", "weight gradient", "nan"])
def test_the_wrong_layer_is_found_and_only_that_one(wrong: str) -> None:
    torch.manual_seed(0)
    module, x = _Nested(wrong), torch.randn(3, 1, 50)

    failed = check_bfloat16(BFLOAT16, module, lambda: module(x))

    assert [layer.name for layer in failed] == ["block.1"]
    assert list(failed[0].errors) == ["output", "input gradient", "weight gradient"]
    for result, error in failed[0].errors.items():
        if wrong == "nan":
            assert math.isnan(error)
        else:
            assert (error > 0.5) == (result == wrong)
        assert f"{error:.2g} ({result})" in str(failed[0])
    assert str(failed[0]).startswith("block.1: ")


@pytest.mark.parametrize("wrong", ["output", "input gradient", "weight gradient", "nan"])
def test_a_found_layer_is_right_afterwards(wrong: str) -> None:
    torch.manual_seed(0)
    module, x = _Nested(wrong), torch.randn(3, 1, 50)
    _, reference = _run(module, x, autocast=False)
    _, before = _run(module, x, autocast=True)
    assert not all(_relative(a, b) < 0.1 for a, b in zip(before, reference, strict=True))

    check_bfloat16(BFLOAT16, module, lambda: module(x))

    estimate, gradients = _run(module, x, autocast=True)
    assert _relative(estimate, _run(module, x, autocast=False)[0]) < 0.03
    # The bias of a convolution before a batch norm has no gradient but rounding noise.
    names = ["input", *(name for name, _ in module.named_parameters())]
    for name, gradient, wanted in zip(names, gradients, reference, strict=True):
        assert name == "block.3.bias" or _relative(gradient, wanted) < 0.1, name
    # The layer by itself is not merely close: it is the float32 computation.
    hidden = torch.randn(3, 8, 20).bfloat16()
    kept, kept_gradients = _run(module.block[1], hidden.float(), autocast=True)
    plain, plain_gradients = _run(module.block[1], hidden.float(), autocast=False)
    assert kept.dtype == torch.float32
    assert torch.equal(kept, plain)
    assert all(torch.equal(a, b) for a, b in zip(kept_gradients, plain_gradients, strict=True))
    with BFLOAT16.autocast():
        assert torch.equal(module.block[1](hidden), module.block[1](hidden.float()))
    assert check_bfloat16(BFLOAT16, module, lambda: module(x)) == []


def test_a_layer_that_fails_for_one_of_its_shapes_is_found() -> None:
    torch.manual_seed(0)
    module = _Nested("one length")
    assert check_bfloat16(BFLOAT16, module, lambda: module(torch.randn(2, 1, 50))) == []
    # 42 samples reach the wrong layer as 40, and again, padded, with another length.
    failed = check_bfloat16(BFLOAT16, module, lambda: module(torch.randn(2, 1, 42)))
    assert [layer.name for layer in failed] == ["block.1"]


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Conv1d(4, 8, 5, 2), (4, 30)),
        (lambda: nn.Conv1d(4, 8, 5, groups=2, bias=False, dilation=2), (4, 30)),
        (lambda: weight_norm(nn.ConvTranspose1d(4, 8, 4, 2)), (4, 30)),
        (lambda: nn.Conv2d(2, 8, (3, 9), (1, 2), padding=(1, 4)).to(memory_format=torch.channels_last), (2, 9, 17)),
        (lambda: nn.ConvTranspose2d(2, 8, 3), (2, 9, 17)),
        (lambda: nn.Linear(16, 8), (7, 16)),
        (lambda: nn.LSTM(16, 16, 2), (3, 16)),
        (lambda: nn.LSTM(16, 16, batch_first=True), (3, 16)),
    ],
)
def test_right_layers_show_only_rounding(batch: int, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = build(), torch.randn(batch, *shape)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    # Nothing but an exact result passes a tolerance of 0, so the errors are shown.
    (shown,) = check_bfloat16(BFLOAT16, layer, lambda: layer(x), tolerance=0)
    if shown.exception:  # this CPU has no bfloat16 kernel for the layer
        assert isinstance(layer, nn.LSTM)
        return
    # The relative error of a rounded factor or result is between 2^-10 and 2^-8; it averages out in long sums.
    for error in shown.errors.values():
        assert 1e-4 < error < 0.02


class _NoKernel(nn.Conv1d):
    """A layer without a bfloat16 kernel, as an LSTM on CPUs without AVX-512."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor")
        return super().forward(x)


def test_a_layer_without_a_bfloat16_kernel_stays_in_float32() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Conv1d(1, 4, 3), _NoKernel(4, 4, 3), nn.Conv1d(4, 1, 3)), torch.randn(2, 1, 40)
    failed = check_bfloat16(BFLOAT16, module, lambda: module(x))
    assert list(map(str, failed)) == ["1: could not create a primitive descriptor"]
    with BFLOAT16.autocast():
        assert module[:2](x).dtype == torch.float32
        assert module(x).dtype == torch.bfloat16


@pytest.mark.parametrize("kept", [False, True])
def test_an_lstm_trains_in_bfloat16_on_any_cpu(tmp_path: Path, kept: bool) -> None:
    """torch has two LSTMs: one for bfloat16 inputs, and oneDNN's for float32 inputs under autocast."""
    codec = tiny_codec(lstm_layers=1)
    if kept:  # the layer before the LSTM, which then gets float32
        keep_float32(codec.encoder.layers[-4])
    with tidied():
        trainer = tiny_trainer(tmp_path, codec=codec, precision="bfloat16", max_steps=2)
        trainer.run()
        failed = [line for line in messages(trainer) if "stays in float32" in line]
        assert trainer.skipped.total == 0
    if kept:
        with torch.autocast("cpu", torch.bfloat16):
            try:
                nn.LSTM(16, 16)(torch.randn(3, 2, 16))
            except RuntimeError:  # this CPU has no kernel for it
                assert any("codec.encoder" in line and "lstm" in line for line in failed)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x[0], id="unbatched"),
        pytest.param(lambda x: x.transpose(0, 1).contiguous().transpose(0, 1), id="transposed"),
        pytest.param(lambda x: x[:1].expand(3, -1, -1), id="expanded"),
        pytest.param(lambda x: x[..., 1:], id="sliced"),
        pytest.param(lambda x: x.bfloat16(), id="bfloat16"),
    ],
)
def test_inputs_of_any_layout_are_compared(view: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv1d(4, 8, 5), torch.randn(3, 4, 30)
    assert check_bfloat16(BFLOAT16, layer, lambda: layer(view(x))) == []
    wrong = _WrongConv1d(4, 8, 5)
    assert len(check_bfloat16(BFLOAT16, wrong, lambda: wrong(view(x)))) == 1


def test_nothing_is_disturbed() -> None:
    torch.manual_seed(0)
    module, x = _Nested("output"), torch.randn(3, 1, 50)
    module.block.eval()
    module.inlet.weight.requires_grad_(False)
    module.block[3].bias.grad = torch.full((8,), 7.0)
    modes = [part.training for part in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.get_rng_state()

    def sample_forward() -> None:
        torch.randn(10)
        module(x)

    check_bfloat16(BFLOAT16, module, sample_forward)

    assert torch.equal(torch.get_rng_state(), generator)
    assert [part.training for part in module.modules()] == modes
    assert list(module.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["block.3.bias"]
    assert torch.equal(module.block[3].bias.grad, torch.full((8,), 7.0))
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())


def test_nothing_is_disturbed_by_a_sample_forward_that_fails() -> None:
    module = _Nested("output")
    state = {name: value.clone() for name, value in module.state_dict().items()}

    def sample_forward() -> None:
        module(torch.randn(3, 1, 50))
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        check_bfloat16(BFLOAT16, module, sample_forward)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_an_autocast_around_the_check_does_not_lose_gradients() -> None:
    # Autocast caches the weights it casts; cast under no_grad they would have no gradient afterwards.
    layer, x = nn.Conv1d(2, 4, 3), torch.randn(2, 2, 9)
    with BFLOAT16.autocast():
        check_bfloat16(BFLOAT16, layer, lambda: layer(x))
        layer(x).float().square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.norm() > 0


def test_layers_run_outside_autocast_are_not_looked_at() -> None:
    layer, x = _WrongConv1d(2, 4, 3), torch.randn(2, 2, 9)

    def sample_forward() -> None:
        with torch.autocast("cpu", enabled=False):
            layer(x)

    assert check_bfloat16(BFLOAT16, layer, sample_forward) == []


def test_float32_needs_no_check() -> None:
    def sample_forward() -> None:
        raise AssertionError("the check ran")

    assert check_bfloat16(choose_precision("float32", "cpu"), nn.Conv1d(1, 1, 1), sample_forward) == []


@pytest.mark.parametrize("norm", [False, True])
def test_keep_float32_survives_deepcopy_and_leaves_the_state_alone(norm: bool) -> None:
    torch.manual_seed(0)
    plain, x = nn.Conv1d(4, 4, 3), torch.randn(2, 4, 9)
    layer = weight_norm(plain) if norm else plain
    keys, reference = list(layer.state_dict()), layer(x)
    keep_float32(layer)
    keep_float32(layer)
    duplicate = copy.deepcopy(nn.Sequential(layer))
    with torch.no_grad():
        duplicate[0].bias += 1

    assert list(layer.state_dict()) == list(duplicate[0].state_dict()) == keys
    with BFLOAT16.autocast():
        assert torch.equal(layer(x), reference)
        # The copy runs its own weights, not those of the original.
        assert torch.equal(duplicate(x), _float32(duplicate, x))
        assert _relative(duplicate(x) - 1, reference) < 1e-5
    duplicate[0].load_state_dict(layer.state_dict())
    with BFLOAT16.autocast():
        assert torch.equal(duplicate(x), reference)


def test_a_kept_lstm_takes_its_state_in_float32() -> None:
    torch.manual_seed(0)
    lstm, x = nn.LSTM(8, 8), torch.randn(5, 2, 8).bfloat16()
    state = (torch.randn(1, 2, 8).bfloat16(), torch.randn(1, 2, 8).bfloat16())
    keep_float32(lstm)
    reference, _ = lstm(x.float(), (state[0].float(), state[1].float()))
    with BFLOAT16.autocast():
        assert torch.equal(lstm(x, hx=state)[0], reference)


def test_no_layer_of_a_codec_is_wrong_after_the_check() -> None:
    # Both layers that bf16 gets wrong on AMX (torch 2.13, 2.14), at the length at which it does, among others.
    torch.manual_seed(0)
    stack = nn.Sequential(
        nn.Conv1d(1, 16, 7), nn.ELU(), weight_norm(nn.Conv1d(16, 32, 16, 8)), nn.ELU(), nn.Conv1d(32, 64, 10, 5),
        nn.ELU(), nn.ConvTranspose1d(64, 32, 10, 5), nn.ELU(), nn.ConvTranspose1d(32, 16, 16, 8), nn.Conv1d(16, 1, 7),
    )  # fmt: skip
    audio = torch.randn(1, 1, 12_006)
    failed = check_bfloat16(BFLOAT16, stack, lambda: stack(audio))

    inputs: list[Tensor] = [audio]
    for layer in stack:
        inputs.append(_float32(layer, inputs[-1]).detach())
    wrong_before = []
    for name, (layer, x) in enumerate(zip(stack, inputs[:-1], strict=True)):
        reference, reference_gradients = _run(layer, x, autocast=False)
        estimate, gradients = _run(layer, x, autocast=True)
        assert _relative(estimate, reference) < 0.05, name
        assert all(_relative(a, b) < 0.05 for a, b in zip(gradients, reference_gradients, strict=True)), name
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            layer.__dict__.pop("forward", None)
            estimate, gradients = _run(layer, x, autocast=True)
            pairs = zip([estimate, *gradients], [reference, *reference_gradients], strict=True)
            wrong_before += [str(name)] if any(_relative(a, b) > 0.05 for a, b in pairs) else []
    # Empty on both sides where this CPU has no defect.
    assert [layer.name for layer in failed] == wrong_before


def _float32(module: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y: Tensor = module(x)
    return y


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("fpu avx512f amx_bf16 amx_tile", torch.bfloat16),
        ("fpu avx512_bf16", torch.bfloat16),
        ("fpu avx2", torch.float32),
    ],
)
def test_auto_follows_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, wanted: torch.dtype) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: amx_bf16 look-alike\nflags\t\t: {flags}\n\n")
    monkeypatch.setattr("codec.training.startup.cpu._CPUINFO", tmp_path / "cpuinfo")
    assert choose_precision("auto", "cpu").dtype == wanted


def test_auto_is_float32_where_the_cpu_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codec.training.startup.cpu._CPUINFO", tmp_path / "missing")
    assert choose_precision("auto", "cpu") == Precision(torch.float32, "cpu", "float32: this cpu has no bfloat16 units")
    assert choose_precision("bfloat16", "cpu").dtype == torch.bfloat16
    assert choose_precision("auto", "meta").dtype == torch.float32


def test_requests_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ValueError, match="precision must be auto, float32, tf32 or bfloat16, got 'bf16'"):
        choose_precision("bf16", "cpu")
    with pytest.raises(ValueError, match="bfloat16 is supported on cpu and cuda, got device 'meta'"):
        choose_precision("bfloat16", "meta")


def test_autocast_is_as_chosen() -> None:
    a = torch.randn(3, 3)
    with choose_precision("float32", "cpu").autocast():
        assert (a @ a).dtype == torch.float32
    with BFLOAT16.autocast():
        assert (a @ a).dtype == torch.bfloat16
        with choose_precision("float32", "cpu").autocast():
            assert (a @ a).dtype == torch.float32
