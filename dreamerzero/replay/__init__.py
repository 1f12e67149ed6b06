"""What was seen: pure `init`, `add` and `sample`, on the device, in the observations' own dtype.

`ring` keeps items and draws them uniformly; `sequence` keeps streams of frames and draws windows of
them uniformly, `windows` by priority; `memory` tells what all that will take.
"""

from dreamerzero.replay import memory, ring, sequence, sum_tree, windows

__all__ = ["memory", "ring", "sequence", "sum_tree", "windows"]
