"""What to do with a world. Planners receive functions, never a world."""

from dreamerzero.planning.imagine import imagine

__all__ = ["imagine"]
