"""Training: the `Trainer`, its settings and parts. Only `scripts` imports more packages than this one."""

from codec.checkpoint_file import CheckpointError
from codec.training.adversarial import AdversarialTraining
from codec.training.batches import TrainingData
from codec.training.checkpoint.store import CheckpointStore, load_checkpoint
from codec.training.config import CodebookConfig, LRSchedule, RollbackConfig, TrainingConfig
from codec.training.distillation import TeacherLatent, TeacherOutput
from codec.training.interruptions import TrainingStopped
from codec.training.logging.run_logger import RunLogger
from codec.training.trainer import Trainer, TrainingError
from codec.training.validation import Validation

__all__ = [
    "AdversarialTraining",
    "CheckpointError",
    "CheckpointStore",
    "CodebookConfig",
    "LRSchedule",
    "RollbackConfig",
    "RunLogger",
    "TeacherLatent",
    "TeacherOutput",
    "Trainer",
    "TrainingConfig",
    "TrainingData",
    "TrainingError",
    "TrainingStopped",
    "Validation",
    "load_checkpoint",
]
