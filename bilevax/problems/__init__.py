"""The zoo: published problems, each with its source and the values it is known to have."""

from ._bimatrix import bimatrix as bimatrix
from ._discrete_toy import discrete_toy as discrete_toy
from ._discrete_toy import return_over_steps as return_over_steps
from ._four_rooms import four_rooms as four_rooms
from ._incentive_game import incentive_game as incentive_game
from ._matrix_game import matrix_game as matrix_game
from ._preferences import Preferences as Preferences
from ._preferences import preferences as preferences
from ._random_reward import random_reward as random_reward
from ._reward_design import reward_design as reward_design
from ._sentinel_intruder import sentinel_intruder as sentinel_intruder
from ._stackelberg import stackelberg as stackelberg
from ._tax import tax as tax
from ._tntp import RoadNetwork as RoadNetwork
from ._tntp import read_network as read_network
from ._tolls import tolls as tolls
from ._zoo import ZooProblem as ZooProblem
