"""The log of a run: metrics, console, samples for sinks, and the report that is updated during training."""

from codec.training.logging.progress_bar import ProgressDisplay
from codec.training.logging.run_logger import RunLogger, Sink
from codec.training.logging.tensorboard_sink import TensorBoardSink
from codec.training.logging.wandb_sink import WandbSink

__all__ = ["ProgressDisplay", "RunLogger", "Sink", "TensorBoardSink", "WandbSink"]
