"""The one training program, and a life around it: evaluation, checkpoints, run folders."""

import jax

from dreamerzero.training import program
from dreamerzero.training.config import load
from dreamerzero.training.evaluation import evaluate
from dreamerzero.training.runner import Interrupted, TrainingDiverged, run

train = jax.jit(program.train, static_argnames="steps")

__all__ = ["Interrupted", "TrainingDiverged", "evaluate", "load", "run", "train"]
