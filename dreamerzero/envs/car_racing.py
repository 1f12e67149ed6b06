"""gymnasium's CarRacing, seen and driven as in World Models (Ha & Schmidhuber 2018, §3.1)."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
from PIL import Image

from dreamerzero.envs.pixels import SIDE

DASHBOARD = 12
"""Rows at the bottom that do not show the road."""


class CarRacingPixels(gymnasium.Wrapper):
    """CarRacing-v3 without its dashboard, `[64, 64, 3]` bytes.

    The action is three numbers in [−1, 1], as in `CarTrack`: steer, to the right if positive; gas,
    none at −1; and the brake, none below 0.
    """

    metadata: ClassVar[dict] = {"render_modes": ["rgb_array"], "render_fps": 50}
    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))

    def __init__(self, **options):
        super().__init__(gymnasium.make("CarRacing-v3", disable_env_checker=True, **options))

    def reset(self, **options):
        picture, info = self.env.reset(**options)
        return _smaller(picture), info

    def step(self, action):
        steer, gas, brake = action
        pushes = np.float32([steer, (gas + 1.0) / 2.0, max(brake, 0.0)])
        picture, *outcome = self.env.step(pushes)
        return _smaller(picture), *outcome


def _smaller(picture):
    road = Image.fromarray(picture[:-DASHBOARD])
    return np.asarray(road.resize((SIDE, SIDE), Image.Resampling.BOX))
