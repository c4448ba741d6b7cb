"""Where methods are compared: suites of problems, run to completion whatever happens.

``bilevax bench SUITE`` on the command line; ``run_bench`` from Python.
"""

from .budget import Budget as Budget
from .plan import Arguments as Arguments
from .plan import Job as Job
from .plan import Plan as Plan
from .plan import plan as plan
from .run import check_folder as check_folder
from .run import run_bench as run_bench
from .statistics import median_interval as median_interval
from .statistics import share_ahead as share_ahead
from .statistics import summarise as summarise
from .suite import Case as Case
from .suite import Reference as Reference
from .suite import Suite as Suite
from .suite import find_suite as find_suite
