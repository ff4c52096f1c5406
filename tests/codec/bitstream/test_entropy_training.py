"""Learning to expect codes, and the command that does it."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.bitstream.entropy.adaptive import AdaptiveCoding
from codec.bitstream.entropy.model_file import ENTROPY_NAME, EntropyModel
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig
from codec.bitstream.entropy.savings import savings
from codec.bitstream.entropy.training import Split, bits_per_code, for_minutes, for_steps, split, train
from codec.bitstream.entropy.transformer_coding import TransformerCoding
from codec.cli import main
from coding_inputs import save_tiny, tiny_codec
from entropy_inputs import CODEC, SMALL, codes_of, made_up


def related(frames: int, seed: int = 0) -> np.ndarray:
    """Book 0 is drawn; book 1 follows from it, and book 2 from the frame before."""
    first = np.random.default_rng(seed).integers(0, 16, frames)
    return np.stack([first, (5 * first + 3) % 16, np.roll(first, 1) ^ 9])


def test_it_learns_what_follows_from_the_book_below_and_from_the_frame_before() -> None:
    torch.manual_seed(0)
    network = CodeTransformer(SMALL)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    codes = torch.from_numpy(related(2000))
    for step in range(150):
        start = step * 12 % 1900
        optimizer.zero_grad()
        bits_per_code(network, codes[None, :, start : start + 60]).backward()
        optimizer.step()
    new = related(200, seed=1)[:, 1:]
    with torch.no_grad():
        bits = bits_per_code(network, torch.from_numpy(new)[None])
    # Of three codes of 4 bits one is left.
    assert 4 / 3 < bits < 1.6
    coding = TransformerCoding(EntropyModel.of(network, CODEC).network(), 3)
    assert abs(8 * len(coding.encode(new)) / new.size - bits) < 0.15
    assert len(AdaptiveCoding(3, 4).encode(new)) > 1.5 * len(coding.encode(new))


def test_a_frame_is_expected_from_those_before_alone_and_a_book_from_those_below() -> None:
    network, codes = made_up(), torch.from_numpy(codes_of(3, 12))[None]
    changed = codes.clone()
    changed[0, 1, 7] = (changed[0, 1, 7] + 1) % 16
    with torch.no_grad():
        hidden = [network(c)[0] for c in (codes, changed)]
        logits = [network.logits(hidden[0], c[0].t()) for c in (codes, changed)]
    same = (hidden[0] == hidden[1]).all(-1)
    assert same[:8].all()
    assert not same[8:].any()
    same = (logits[0] == logits[1]).all(-1)
    assert same[7].tolist() == [True, True, False]
    assert same[:7].all()


def test_fewer_books_are_expected_as_with_all_of_them_where_they_agree() -> None:
    network, codes = made_up(), torch.from_numpy(codes_of(3, 1))[None]
    with torch.no_grad():
        one, all_three = (network.logits(network(codes[:, :n])[0], codes[0, :n].t()) for n in (1, 3))
    torch.testing.assert_close(one, all_three[:, :1])


def test_one_seed_and_one_number_of_steps_give_one_network_whatever_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_clock() -> float:
        raise AssertionError("steps need no clock")

    monkeypatch.setattr("codec.bitstream.entropy.training.time.monotonic", no_clock)
    data = Split([related(300)], [related(60, seed=1)])
    shares: list[float] = []

    def trained(steps: int, seed: int) -> dict[str, torch.Tensor]:
        shares.clear()
        torch.rand(seed + steps)  # what was drawn before does not matter
        network = train(data, SMALL, [1, 3], for_steps(steps), seed, report=lambda *said: shares.append(said[0]))
        assert shares == [step / steps for step in range(1, steps + 1)]
        return network.state_dict()

    first, again, other, longer = (trained(*both) for both in ((14, 3), (14, 3), (14, 4), (15, 3)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head"], other["head"])
    assert not torch.equal(first["head"], longer["head"])


def test_gradients_are_the_same_to_the_bit_whichever_thread_is_first() -> None:
    """Of few codes that occur often, so that many frames add to one entry of a table."""
    network = made_up(EntropyConfig(3, 16, 200, dim=32, layers=2, heads=4, hidden=16))
    codes = torch.from_numpy(np.stack([codes_of(3, 200) % 2] * 8))
    seen = []
    for _ in range(10):
        network.zero_grad()
        bits_per_code(network, codes).backward()
        seen.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert len(seen[0]) == len(list(network.parameters()))
    assert all(torch.equal(one, first) for other in seen for one, first in zip(other, seen[0], strict=True))


def test_minutes_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("codec.bitstream.entropy.training.time.monotonic", lambda: now[0])
    share_done, at_once = for_minutes(2), for_minutes(0)
    assert (share_done(), at_once()) == (0, 1)
    now[0] = 130.0
    assert share_done() == 0.25
    now[0] = 500.0
    assert share_done() == 1


def test_the_best_on_held_out_codes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a training that goes astray after its first half, by a clock of our own."""
    ticks = iter(np.linspace(0, 60, 25))
    now = [0.0]

    def clock() -> float:
        now[0] = next(ticks, 61.0)
        return now[0]

    monkeypatch.setattr("codec.bitstream.entropy.training.time.monotonic", clock)
    monkeypatch.setattr("codec.bitstream.entropy.training._schedule", lambda done: 1.0 if done < 0.5 else 300.0)
    reported: list[float] = []
    held_out = related(60, seed=1)

    def report(done: float, loss: float, held: float | None) -> None:
        reported.extend([] if held is None else [held])

    network = train(Split([related(300)], [held_out]), SMALL, [3], for_minutes(1.0), 0, report=report)
    assert len(reported) == 12
    assert min(reported) < 0.5 * reported[-1]
    with torch.no_grad():
        kept = float(bits_per_code(network, torch.from_numpy(held_out)[None]))
    assert kept < min(reported) + 1


def test_whole_signals_are_held_out() -> None:
    signals = [np.full((2, 50), i) for i in range(40)]
    data = split(signals, seed=0)
    held = {int(s[0, 0]) for s in data.held_out}
    assert len(data.held_out) == 2
    assert held | {int(s[0, 0]) for s in data.train} == set(range(40))
    assert len(data.train) == 38
    assert {int(s[0, 0]) for s in split(signals, seed=1).held_out} != held
    two = split([np.zeros((2, 1000)), np.zeros((2, 10))], seed=0)
    assert (len(two.train), len(two.held_out)) == (1, 1)
    one = split([np.arange(200).reshape(1, 200)], seed=0)
    assert (one.train[0].shape, one.held_out[0].tolist()) == ((1, 180), [list(range(180, 200))])
    with pytest.raises(ValueError, match="expected at least 100 frames of codes to learn from, got 99"):
        split([np.zeros((2, 99))], seed=0)


def test_tables_start_as_projections_of_the_codebooks() -> None:
    """So codes that are near each other in the codec are near each other here."""
    codebooks = tiny_codec("causal").quantizer.embed
    config = EntropyConfig(8, 16, 20, dim=64, layers=1, heads=2, hidden=16)
    torch.manual_seed(0)
    table = CodeTransformer(config, codebooks).past.detach()
    distance, reference = (torch.cdist(t[0], t[0]).flatten() for t in (table, codebooks))
    assert torch.corrcoef(torch.stack([distance, reference]))[0, 1] > 0.9
    assert table.square().sum(-1).mean() == pytest.approx(1, rel=1e-4)


def test_savings_count_the_bytes_that_files_have() -> None:
    codec = tiny_codec("causal", bandwidths_kbps=(0.6, 2.4))
    config = EntropyConfig(8, 16, 20, dim=16, layers=1, heads=2, hidden=16)
    model = EntropyModel.of(made_up(config), codec.fingerprint())
    signals = [codes_of(8, 600), codes_of(8, 30)]
    rows = savings({"a": signals, "b": [np.zeros((8, 1100), np.int64)]}, model, codec.config)
    assert [(row.group, row.kbps, row.signals, row.frames) for row in rows] == [
        ("a", 0.6, 2, 630), ("b", 0.6, 1, 1100), ("a", 2.4, 2, 630), ("b", 2.4, 1, 1100),
    ]  # fmt: skip
    assert [row.fixed_bytes for row in rows] == [630, 1100, 2520, 4400]
    coding = AdaptiveCoding(8, 4)
    want = 0
    for blocks in ([signals[0][:, :512], signals[0][:, 512:]], [signals[1]]):
        coding.reset()
        want += sum(len(coding.encode(block)) for block in blocks)
    assert rows[2].adaptive_bytes == want
    transformer = TransformerCoding(model.network(), 8)
    want = sum(len(transformer.encode(block)) for block in np.split(np.zeros((8, 1024), np.int64), 2, 1))
    transformer.reset()  # a sync point
    assert rows[3].transformer_bytes == want + len(transformer.encode(np.zeros((8, 76), np.int64)))


def test_the_command_writes_a_model_that_encode_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = save_tiny("causal", tmp_path, bandwidths_kbps=(0.6, 2.4))
    for name in ("data/a", "data/b", "held/c"):
        Path(name).parent.mkdir(exist_ok=True)
        audio = np.random.default_rng(len(name)).uniform(-0.5, 0.5, 24_000).astype(np.float32)
        soundfile.write(f"{name}.wav", audio, 24_000)
    Path("data/broken.wav").write_bytes(b"RIFF")
    arguments = ["train-entropy", "--checkpoint", run, "--data", "data", "--steps", "3"]
    assert main([*arguments, "--held-out", "held", "data"]) == 1
    out, error = capsys.readouterr()
    assert error.count("data/broken.wav is not audio that can be read") == 2
    model = EntropyModel.load(Path(run) / ENTROPY_NAME)
    assert model.codec == tiny_codec("causal", bandwidths_kbps=(0.6, 2.4)).fingerprint()
    assert f"{run}/{ENTROPY_NAME}: entropy model {model.fingerprint}, " in out
    size = r" +[\d.]+ \([-+][\d.]+ %\)"
    rows = re.findall(rf"^(held|data) +(\d) +(\d+) +([\d.]+){size}{size}$", out, re.M)
    assert [" ".join(row) for row in rows] == ["held 1 75 0.6", "data 2 150 0.6", "held 1 75 2.4", "data 2 150 2.4"]
    assert main(["encode", "held/c.wav", "c.ecdc", "--checkpoint", run]) == 0
    assert main(["info", "c.ecdc"]) == 0
    assert f"transformer with entropy model {model.fingerprint}" in capsys.readouterr().out

    Path("data/broken.wav").unlink()
    assert main([*arguments, "--output", "again.safetensors"]) == 0
    assert re.search(r"^held out +1 +75 ", capsys.readouterr().out, re.M)
    assert Path("again.safetensors").read_bytes() == (Path(run) / ENTROPY_NAME).read_bytes()
    for more in (["--steps", "4"], ["--seed", "1"]):
        assert main([*arguments, *more, "--output", "other.safetensors"]) == 0
        assert Path("again.safetensors").read_bytes() != Path("other.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--minutes", "1"])
    assert "not allowed with argument --steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere"], "no audio file in nowhere"),
        (["--data", ".", "--minutes", "-1"], "minutes must be 0 or more, got -1"),
        (["--data", ".", "--minutes", "nan"], "minutes must be 0 or more, got nan"),
        (["--data", ".", "--steps", "0"], "steps must be 1 or more, got 0"),
        (["--data", ".", "--output", "no/where"], "cannot write no/where: there is no folder no"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = save_tiny("causal", tmp_path)
    assert main(["train-entropy", "--checkpoint", run, *arguments]) == 1
    assert capsys.readouterr().err == f"codec: {sentence}\n"
    assert not (Path(run) / ENTROPY_NAME).exists()
