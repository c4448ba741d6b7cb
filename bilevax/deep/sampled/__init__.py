"""Sampled, model-free estimators for tabular bilevel problems, checked against the exact core."""

from ._certificate import gap_interval as gap_interval
from ._certificate import mean_interval as mean_interval
from ._certificate import optimality_bound as optimality_bound
from ._estimates import FOLLOWER as FOLLOWER
from ._estimates import LEADER as LEADER
from ._estimates import Player as Player
from ._estimates import Returns as Returns
from ._estimates import gradient_in_x as gradient_in_x
from ._estimates import policy_gradient as policy_gradient
from ._estimates import returns as returns
from ._estimates import value_samples as value_samples
from ._estimator import Sampled as Sampled
from ._estimator import Tables as Tables
from ._learner import Learned as Learned
from ._learner import learn as learn
from ._learner import transitions as transitions
from ._rollout import Rollout as Rollout
from ._rollout import buffer_length as buffer_length
from ._rollout import rollout as rollout
from ._simulator import AbstractDynamics as AbstractDynamics
from ._simulator import AbstractSimulator as AbstractSimulator
from ._simulator import GameSimulator as GameSimulator
from ._simulator import ModelSimulator as ModelSimulator
from ._simulator import Replay as Replay
from ._simulator import as_simulator as as_simulator
