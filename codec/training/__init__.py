"""How a codec is trained; the only library code that sees every package."""

from codec.training.adversary import Adversary
from codec.training.checkpoint import CheckpointError, CheckpointStore, load_checkpoint
from codec.training.plan import Budget, Cadence, CodebookPlan, DoctorPlan, LearningRate, Plan
from codec.training.run_logger import RunLogger
from codec.training.trainer import Trainer, TrainingError
from codec.training.training_data import TrainingData
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
