"""RL from human feedback: PBRL, its alternating predecessor, and the ceiling on true reward."""

from .base import AbstractAlgorithm as AbstractAlgorithm
from .base import RLHFState as RLHFState
from .drlhf import DRLHF as DRLHF
from .pbrl import PBRL as PBRL
from .setup import Setup as Setup
from .true_reward import TrueReward as TrueReward
