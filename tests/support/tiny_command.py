"""Overrides under which a training command takes seconds: three steps of a SEANet of a few thousand parameters."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[2]
# For any experiment with the codec and the losses of starter_seanet.
TINY_SEANET = (
    "data=clips", "data.num_workers=0", "data.batch_size=2", "data.segment_seconds=0.0667",
    "data.held_out.seconds=0.2", "data.held_out.clips_per_source=1", "validation.bandwidth_kbps=2.4",
    "codec.network.filters=2", "codec.network.strides=[10,16]", "codec.network.latent_dim=8",
    "codec.quantizer.num_codebooks=4", "codec.quantizer.codebook_size=16", "codec.bandwidths_kbps=[0.6,1.2,2.4]",
    "discriminator.filters=2", "discriminator.windows=[64,32]", "losses.terms.mel.window_exponents=[5,6]",
    "+losses.terms.tonality.window_samples=512",
    "adversarial.start_fraction=0", "adversarial.update_probability=0.6",
    "trainer.device=cpu", "trainer.precision=float32",
    "trainer.codebooks.init_batches=2", "trainer.log_every=1", "trainer.validate_every=2",
    "trainer.checkpoint_every=2", "trainer.lr_schedule.warmup_fraction=0",
)  # fmt: skip
TINY = ("experiment=starter_seanet", *TINY_SEANET)


def composed(config_name: str, *overrides: str) -> DictConfig:
    """The configuration that the command line composes."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(config_name, list(overrides))


def listed(settings: tuple[str, ...]) -> str:
    """The settings as a list in an override."""
    return "[" + ",".join(f"'{setting}'" for setting in settings) + "]"
