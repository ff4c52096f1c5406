"""Training of entropy models, and the sizes of codes in each coding."""

import numpy as np
import pytest
import torch

from codec.bitstream.entropy.adaptive import AdaptiveCoder
from codec.bitstream.entropy.coding_sizes import coding_sizes
from codec.bitstream.entropy.model_file import EntropyModel
from codec.bitstream.entropy.network import CodeTransformer, EntropyConfig
from codec.bitstream.entropy.training import Split, bits_per_code, minutes_progress, split, steps_progress, train
from codec.bitstream.entropy.transformer import TransformerCoder
from codec.model_file import fingerprint
from coding_inputs import tiny_codec
from entropy_inputs import CODEC_FINGERPRINT, SMALL, computed_codes, random_network


def related_codes(frames: int, seed: int = 0) -> np.ndarray:
    """Codebook 0 is random, codebook 1 follows from it, and codebook 2 from the previous frame."""
    first = np.random.default_rng(seed).integers(0, 16, frames)
    return np.stack([first, (5 * first + 3) % 16, np.roll(first, 1) ^ 9])


def test_it_learns_relations_to_the_previous_codebook_and_frame() -> None:
    torch.manual_seed(0)
    network = CodeTransformer(SMALL)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    codes = torch.from_numpy(related_codes(2000))
    for step in range(150):
        start = step * 12 % 1900
        optimizer.zero_grad()
        bits_per_code(network, codes[None, :, start : start + 60]).backward()
        optimizer.step()
    new = related_codes(200, seed=1)[:, 1:]
    with torch.no_grad():
        bits = bits_per_code(network, torch.from_numpy(new)[None])
    # One of three codes of 4 bits is unpredictable.
    assert 4 / 3 < bits < 1.6
    coder = TransformerCoder(EntropyModel.from_network(network, CODEC_FINGERPRINT).network(), 3)
    assert abs(8 * len(coder.encode(new)) / new.size - bits) < 0.15
    assert len(AdaptiveCoder(3, 4).encode(new)) > 1.5 * len(coder.encode(new))


def test_predictions_depend_on_earlier_frames_and_codebooks_only() -> None:
    network, codes = random_network(), torch.from_numpy(computed_codes(3, 12))[None]
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


def test_the_first_codebook_does_not_depend_on_the_number_of_codebooks() -> None:
    network, codes = random_network(), torch.from_numpy(computed_codes(3, 1))[None]
    with torch.no_grad():
        one, all_three = (network.logits(network(codes[:, :n])[0], codes[0, :n].t()) for n in (1, 3))
    torch.testing.assert_close(one, all_three[:, :1])


def test_the_same_seed_and_steps_give_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_clock() -> float:
        raise AssertionError("training by steps must not use the clock")

    monkeypatch.setattr("codec.bitstream.entropy.training.time.monotonic", no_clock)
    data = Split([related_codes(300)], [related_codes(60, seed=1)])
    fractions: list[float] = []

    def trained(steps: int, seed: int) -> dict[str, torch.Tensor]:
        fractions.clear()
        torch.rand(seed + steps)  # earlier draws must not matter
        network = train(
            data, SMALL, [1, 3], steps_progress(steps), seed, report=lambda *values: fractions.append(values[0])
        )
        assert fractions == [step / steps for step in range(1, steps + 1)]
        return network.state_dict()

    first, again, other, longer = (trained(*both) for both in ((14, 3), (14, 3), (14, 4), (15, 3)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head"], other["head"])
    assert not torch.equal(first["head"], longer["head"])


def test_gradients_are_bit_identical_across_runs() -> None:
    """With few codes that occur often, so that many frames add to one entry of a table."""
    network = random_network(EntropyConfig(3, 16, 200, dim=32, layers=2, heads=4, hidden=16))
    codes = torch.from_numpy(np.stack([computed_codes(3, 200) % 2] * 8))
    seen = []
    for _ in range(10):
        network.zero_grad()
        bits_per_code(network, codes).backward()
        seen.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert len(seen[0]) == len(list(network.parameters()))
    assert all(torch.equal(one, first) for other in seen for one, first in zip(other, seen[0], strict=True))


def test_minutes_progress_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("codec.bitstream.entropy.training.time.monotonic", lambda: now[0])
    progress, finished = minutes_progress(2), minutes_progress(0)
    assert (progress(), finished()) == (0, 1)
    now[0] = 130.0
    assert progress() == 0.25
    now[0] = 500.0
    assert progress() == 1


def test_the_weights_with_the_lowest_held_out_loss_are_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate of the second half is so large that training diverges. The clock is simulated."""
    ticks = iter(np.linspace(0, 60, 25))
    now = [0.0]

    def clock() -> float:
        now[0] = next(ticks, 61.0)
        return now[0]

    monkeypatch.setattr("codec.bitstream.entropy.training.time.monotonic", clock)
    monkeypatch.setattr("codec.bitstream.entropy.training._schedule", lambda fraction: 1.0 if fraction < 0.5 else 300.0)
    reported: list[float] = []
    held_out = related_codes(60, seed=1)

    def report(fraction: float, loss: float, held: float | None) -> None:
        reported.extend([] if held is None else [held])

    network = train(Split([related_codes(300)], [held_out]), SMALL, [3], minutes_progress(1.0), 0, report=report)
    assert len(reported) == 12
    assert min(reported) < 0.5 * reported[-1]
    with torch.no_grad():
        kept = float(bits_per_code(network, torch.from_numpy(held_out)[None]))
    assert kept < min(reported) + 1


def test_split_holds_out_whole_signals() -> None:
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
    with pytest.raises(ValueError, match="expected at least 100 frames of codes to train on, got 99"):
        split([np.zeros((2, 99))], seed=0)


def test_tables_start_as_projections_of_the_codebooks() -> None:
    """So distances between codes are those of the codec."""
    codebooks = tiny_codec("causal").quantizer.embed
    config = EntropyConfig(8, 16, 20, dim=64, layers=1, heads=2, hidden=16)
    torch.manual_seed(0)
    table = CodeTransformer(config, codebooks).past.detach()
    distance, reference = (torch.cdist(t[0], t[0]).flatten() for t in (table, codebooks))
    assert torch.corrcoef(torch.stack([distance, reference]))[0, 1] > 0.9
    assert table.square().sum(-1).mean() == pytest.approx(1, rel=1e-4)


def test_coding_sizes_count_the_bytes_of_blocks() -> None:
    codec = tiny_codec("causal", bandwidths_kbps=(0.6, 2.4))
    config = EntropyConfig(8, 16, 20, dim=16, layers=1, heads=2, hidden=16)
    model = EntropyModel.from_network(random_network(config), fingerprint(codec))
    signals = [computed_codes(8, 600), computed_codes(8, 30)]
    rows = coding_sizes({"a": signals, "b": [np.zeros((8, 1100), np.int64)]}, model, codec.config)
    assert [(row.group, row.bandwidth_kbps, row.signals, row.frames) for row in rows] == [
        ("a", 0.6, 2, 630), ("b", 0.6, 1, 1100), ("a", 2.4, 2, 630), ("b", 2.4, 1, 1100),
    ]  # fmt: skip
    assert [row.fixed_bytes for row in rows] == [630, 1100, 2520, 4400]
    adaptive = AdaptiveCoder(8, 4)
    want = 0
    for blocks in ([signals[0][:, :512], signals[0][:, 512:]], [signals[1]]):
        adaptive.reset()
        want += sum(len(adaptive.encode(block)) for block in blocks)
    assert rows[2].adaptive_bytes == want
    transformer = TransformerCoder(model.network(), 8)
    want = sum(len(transformer.encode(block)) for block in np.split(np.zeros((8, 1024), np.int64), 2, 1))
    transformer.reset()  # a random access point
    assert rows[3].transformer_bytes == want + len(transformer.encode(np.zeros((8, 76), np.int64)))
