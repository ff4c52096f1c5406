"""Trains a codec.

python -m scripts.train [group=name ...] [path.to.key=value ...]

Exit status: see scripts.command_line. The traceback of an error is in the run's log.txt in any case.
"""

from omegaconf import DictConfig

from codec.evaluation.findings import findings
from codec.evaluation.report import read_metrics, write_report
from scripts.command_line import compose, execute
from scripts.composition import opened


def run(cfg: DictConfig) -> None:
    """Trains, then writes the report and says where everything is."""
    with opened(cfg) as trainer:
        scores = trainer.run()
    if not trainer.processes.first:
        return
    folder = trainer.logger.folder
    report = write_report(folder)
    print(f"\nTrained for {trainer.step} steps, {trainer.seconds / 60:.1f} min.")
    for label, path in (
        ("model", folder / "model.safetensors"),
        ("checkpoints", trainer.store.folder),
        ("samples", folder / "samples"),
        ("report", report),
    ):
        print(f"  {label:<12} {path}")
    print(f"Held-out scores at {cfg.validation.bandwidth_kbps:g} kbps:")
    for name, value in scores.items():
        if not name.startswith("codebook/"):
            print(f"  {name:<24} {value:8.3f}")
    for sentence in findings(read_metrics(folder / "metrics.jsonl")[0]):
        print(f"- {sentence}")
    print(f"Use it:  codec encode in.wav out.ecdc --checkpoint {folder}")


def train() -> None:
    """Every run that the command line asks for."""
    for cfg in compose("train"):
        run(cfg)


def main() -> None:
    """The command; see the head of this file."""
    execute(train, "stopped; the same command resumes from the last checkpoint")


if __name__ == "__main__":
    main()
