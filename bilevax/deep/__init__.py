"""Sampled and neural bilevel RL: rollouts, actor-critics, preferences, RLHF."""

from .actor_critic import A2C as A2C
from .actor_critic import PPO as PPO
from .environment import AbstractEnvironment as AbstractEnvironment
from .environment import Spec as Spec
from .environment import Step as Step
from .environments.catcher import Catcher as Catcher
from .environments.minatar import minatar as minatar
from .environments.moving_dot import MovingDot as MovingDot
from .presets import own_preset as own_preset
from .presets import preset as preset
from .rlhf import DRLHF as DRLHF
from .rlhf import PBRL as PBRL
from .rlhf import Setup as Setup
from .rlhf import TrueReward as TrueReward
from .rlhf.run import run_rlhf as run_rlhf
from .sampled import Sampled as Sampled
from .sampler import CompiledSampler as CompiledSampler
from .sampler import HostSampler as HostSampler
from .teacher import ScriptedTeacher as ScriptedTeacher
