"""Clips of learned policies."""

import io
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

from ..._types import Key
from ...io.files import read_json, replacing
from ...io.run_folder import CONFIG
from ..policy import ActorCritic, actor_critic
from ..rollout import collect, start_actors
from ..sampler import AbstractSampler, CompiledSampler, HostSampler
from .folder import load_network

CLIP = "policy-seed{seed}.{format}"
_FRAME_TIME = 80  # milliseconds
_SIDE = 160  # pixels at least


def write_clip(
    folder: Path, sampler: AbstractSampler, seed: int, path: Path, *, steps: int = 200
) -> Path:
    """Writes a clip (GIF or WebP, by the suffix) of the policy of a seed in the folder of a run.

    ``ValueError`` where the folder holds no policy of that seed, or one for other observations.
    """
    from PIL import Image

    network = read_policy(folder, sampler, seed)
    frames = [_enlarged(z) for z in policy_frames(sampler, network, jax.random.key(seed), steps)]
    images = [Image.fromarray(frame) for frame in frames]
    clip = io.BytesIO()
    options = dict(save_all=True, append_images=images[1:], duration=_FRAME_TIME, loop=0)
    if path.suffix == ".webp":
        options["lossless"] = True
    images[0].save(clip, path.suffix.removeprefix(".").upper(), **options)
    with replacing(path) as file:
        file.write(clip.getvalue())
    return path


def read_policy(folder: Path, sampler: AbstractSampler, seed: int) -> ActorCritic:
    """The scored policy's network of a seed."""
    path = folder / f"policy-seed{seed}.safetensors"
    if not path.exists():
        there = sorted(p.name for p in folder.glob("policy-seed*.safetensors"))
        raise ValueError(
            f"{folder} holds no policy of seed {seed}; "
            + (f"it has {', '.join(there)}." if there else "the run is unfinished, or another's.")
        )
    setup = read_json(folder / CONFIG)["setup"]
    shape = lambda key: actor_critic(key, sampler.spec, setup["width"], setup["depth"])
    return load_network(path, eqx.filter_eval_shape(shape, jax.random.key(0)))


def policy_frames(
    sampler: AbstractSampler, network: ActorCritic, key: Key, steps: int
) -> list[np.ndarray]:
    """Pictures ``[height, width, 3]`` of ``steps`` steps of one environment."""
    start_key, walk_key = jax.random.split(key)
    if isinstance(sampler, CompiledSampler):
        env = sampler.env
        actors = start_actors(env, start_key, 1)
        walk = eqx.filter_jit(collect)
        _, rollout = walk(env, network, actors, walk_key, steps)
        seen = np.asarray(rollout.observation)[:, 0]
        return [env.picture(observation) for observation in seen]
    assert isinstance(sampler, HostSampler)
    env = sampler.make.get(1, "clip")
    act = eqx.filter_jit(lambda z, key: jax.random.categorical(key, network(z)[0]))
    observation = env.reset(int(jax.random.randint(start_key, (), 0, 2**31 - 1)))
    frames = []
    for k in jax.random.split(walk_key, steps):
        frames.append(env.picture(observation[0]))
        observation = env.step(np.asarray(act(observation, k))).observation
    return frames


def _enlarged(frame):
    scale = max(1, -(-_SIDE // max(frame.shape[:2])))
    return np.ascontiguousarray(frame.repeat(scale, axis=0).repeat(scale, axis=1))
