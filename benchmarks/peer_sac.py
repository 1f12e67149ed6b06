"""The sides of stable-baselines3 and sbx in `sac_speed.py`, for their own Python.

python peer_sac.py sbx Pendulum-v1 500
"""

import sys

import sbx
import stable_baselines3
import torch
from peers import SAC_SIZES, serve


def main():
    name, env, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    kind = {"sbx": sbx, "sb3": stable_baselines3}[name].SAC
    agent = kind(
        "MlpPolicy",
        env,
        buffer_size=SAC_SIZES["capacity"],
        learning_starts=SAC_SIZES["prefill"],
        batch_size=SAC_SIZES["batch"],
        policy_kwargs={"net_arch": [SAC_SIZES["units"]] * SAC_SIZES["layers"]},
        device="cpu",
        seed=0,
    )
    agent.learn(SAC_SIZES["prefill"] + 1)
    serve({"step": (steps, lambda: agent.learn(steps, reset_num_timesteps=False))})


if __name__ == "__main__":
    main()
