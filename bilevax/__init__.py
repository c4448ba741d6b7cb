"""Bilevel reinforcement learning in JAX: penalties, bilevel solvers, certificates."""

from ._driver import Run as Run
from ._driver import RunProgress as RunProgress
from ._driver import run as run
from ._exact import AbstractEstimator as AbstractEstimator
from ._exact import Certificate as Certificate
from ._exact import Exact as Exact
from ._exact import differentiable_policy as differentiable_policy
from ._gap import Gap as Gap
from ._gap import best_responses as best_responses
from ._gap import duality_gap as duality_gap
from ._mdp import MDP as MDP
from ._mdp import Evaluation as Evaluation
from ._mdp import evaluate as evaluate
from ._mdp import expected_return as expected_return
from ._mdp import occupancy as occupancy
from ._mdp import q_values as q_values
from ._mdp import state_values as state_values
from ._oracle import AbstractOracle as AbstractOracle
from ._oracle import PolicyIteration as PolicyIteration
from ._oracle import Response as Response
from ._penalty import AbstractPenalty as AbstractPenalty
from ._penalty import BellmanPenalty as BellmanPenalty
from ._penalty import NikaidoIsoda as NikaidoIsoda
from ._problem import BilevelProblem as BilevelProblem
from ._problem import Simplex as Simplex
from ._problem import Softmax as Softmax
from ._problem import StackelbergGame as StackelbergGame
from ._regularizer import NegativeEntropy as NegativeEntropy
from ._regularizer import SquaredNorm as SquaredNorm
from ._regularizer import Unregularized as Unregularized
from ._regularizer import sparsemax as sparsemax
from ._solution import RESULTS as RESULTS
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._solver import PBRL as PBRL
from ._solver import AutomaticWeight as AutomaticWeight
from ._solver import ConstantWeight as ConstantWeight
from ._solver import Homotopy as Homotopy
from ._solver import ImplicitGradient as ImplicitGradient
from ._solver import IndependentGradient as IndependentGradient
from ._solver import MirrorDescent as MirrorDescent
from ._solver import SoftmaxLogits as SoftmaxLogits
from ._transition import DenseTransition as DenseTransition
from ._transition import SuccessorList as SuccessorList

__version__ = "0.1.0"
