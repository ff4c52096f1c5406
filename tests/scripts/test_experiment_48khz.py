"""The experiment `encodec_48khz`: overlapping segments, each with a gain."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from codec import Codec
from coding_inputs import ROOT
from scripts.composition import build_trainer

LENGTH, STRIDE = 48_000, 47_520


def test_the_48_khz_experiment_trains_on_segments_with_a_scale_each(tmp_path: Path) -> None:
    """A step at tiny size; then a quiet and a loud segment come back as loud as they were."""
    tiny = [
        "experiment=encodec_48khz", "data=clips", "data.num_workers=0", "data.batch_size=2", "codec.network.filters=2",
        "codec.network.latent_dim=8", "codec.quantizer.num_codebooks=4", "codec.quantizer.codebook_size=16",
        "codec.bandwidths_kbps=[0.6,1.2,2.4]", "discriminator.filters=2", "discriminator.windows=[256]",
        "data.segment_seconds=0.1", "trainer.device=cpu", "trainer.precision=float32", "name=tiny",
        "data.held_out={seconds: 0.2, clips_per_source: 1}", "validation.bandwidth_kbps=2.4",
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        trainer = build_trainer(compose("train", tiny), tmp_path)
    audio = trainer.data.batch(0)
    assert audio.shape == (2, 2, 4800)
    trainer.codec.quantizer.initialize(torch.randn(256, 8))
    before = [parameter.clone() for parameter in trainer.codec.parameters()]
    trainer.train_step(audio)
    trainer.logger.close()
    after = list(trainer.codec.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True) if a.numel() > 16)
    assert all(bool(parameter.isfinite().all()) for parameter in after)

    codec: Codec = trainer.codec.eval()
    audio = torch.cat([0.001 * torch.randn(1, 2, STRIDE), torch.randn(1, 2, LENGTH)], -1)
    segments = codec.encode_segments(audio)
    assert [s.codes.shape for s in segments] == [(1, 4, 150), (1, 4, 150), (1, 4, 2)]
    rms = [audio[..., s : s + LENGTH].mean(1).square().mean().sqrt() for s in (0, STRIDE, 2 * STRIDE)]
    torch.testing.assert_close(torch.cat([s.gain for s in segments if s.gain is not None]), torch.stack(rms))
    decoded = codec.decode_segments(segments, audio.shape[-1])
    # Before the overlap, the audio of the first segment does not depend on the second.
    alone = codec.decode_segment(segments[0])
    torch.testing.assert_close(decoded[..., : STRIDE - 1], alone[..., : STRIDE - 1], rtol=1e-5, atol=1e-7)
