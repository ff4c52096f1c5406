"""How a codec is trained; the only library code that sees every package."""

from codec.training.adversarial import Adversary
from codec.training.batches import TrainingData
from codec.training.checkpoint.store import CheckpointError, CheckpointStore, load_checkpoint
from codec.training.config import Budget, Cadence, CodebookPlan, DoctorPlan, LearningRate, Plan
from codec.training.logging.run_logger import RunLogger
from codec.training.trainer import Trainer, TrainingError
from codec.training.validation import Validation

__all__ = [
    "Adversary",
    "Budget",
    "Cadence",
    "CheckpointError",
    "CheckpointStore",
    "CodebookPlan",
    "DoctorPlan",
    "LearningRate",
    "Plan",
    "RunLogger",
    "Trainer",
    "TrainingData",
    "TrainingError",
    "Validation",
    "load_checkpoint",
]
