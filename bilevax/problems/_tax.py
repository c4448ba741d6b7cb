"""Tax design: rates on income and three goods, and consumers who work, spend and save."""

from functools import partial
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm

from .._evaluation import Evaluation, evaluate
from .._gap import best_responses
from .._mdp import MDP
from .._solution import Solution
from .._solver import PBRL, Homotopy
from .._transition import DenseTransition
from .._types import Array, Bool, Float, Key, Scalar
from ._zoo import ZooProblem, check_positive_tau, settling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFERENCES = np.array([[0.6, 0.3, 0.1], [0.1, 0.7, 0.2]])
"""alpha of the two kinds of consumers, each half of the population, for the three goods."""
LARGEST_ASSETS, LARGEST_RATE, START_RATE = 100.0, 2.0, 0.3
LONGEST_HOURS, LARGEST_SPENDING = 9 * 0.89, 4 * 1.25
SHOCK, START_SPREAD = 5.0, 2**0.5
"""Standard deviations of what chance adds to assets in a step, and of the first assets."""
DISCOUNT = 0.9
_DENSER = 3.0
"""The grid is the sinh of this times evenly spaced points, ten times denser at 0 than at the ends.

Of 0 (even spacing), 1, 2, 3 and 4 this gave F at two x nearest to that on 401 points, at 41 to 81.
"""


class TaxDesign(eqx.Module):
    """Consumers of N = 2 kinds on S levels of assets; x are the four tax rates, in [0, 2].

    x is (income tax, taxes on three goods). Of c_i spent on good i, c_i / (1 + x_i) buys goods and
    the rest is tax. A consumer's next assets do not depend on how it splits a *total* spending
    among goods: an action is a pair (hours h, total spending t), numbered ``hour * T + total``, and
    t is split by the best (softmax) rule within the step. That is exact: with entropy the best
    split has the value

        U_x(t) = tau log sum over bundles c of total t of exp(u_x(c) / tau),

    the joint entropy is that of (h, t) plus that of the split, and the best response, its value and
    F(x) are those of the MDP with one action per (h, c_1, c_2, c_3). Samples draw (h, t) and the
    next assets, and see a split by its mean.

    Attributes:
        assets: the grid, from -100 to 100.
        hours: h, hours of work at a wage of 1, ``[H]``.
        totals: t, money spent in a step, ``[T]``.
        bundles: c, money spent on each good, ``[C, 3]``.
        member: whether a bundle has this total.
        preferences: alpha, ``[N, 3]``.
        initial: rho, summing to 1 over both kinds.
        tau: the weight of the consumers' entropy.
    """

    assets: Float[Array, " S"]
    hours: Float[Array, " H"]
    totals: Float[Array, " T"]
    bundles: Float[Array, "C 3"]
    member: Bool[Array, "T C"]
    preferences: Float[Array, "N 3"]
    initial: Float[Array, " S"]
    tau: Scalar
    discount: Scalar

    def kernel(self, x: Float[Array, " 4"]) -> Float[Array, "S A S"]:
        """P_x(m'|m,(h,t)) of m' ~ clip(m + (1 - x_0) h - t) + 5 N(0,1), within [-100, 100]."""
        saving = (1 - x[0]) * self.hours[:, None] - self.totals
        mean = self.assets[:, None] + saving.reshape(-1)
        return on_grid(jnp.clip(mean, -LARGEST_ASSETS, LARGEST_ASSETS), SHOCK, self.assets)

    def bundle_utility(self, x: Float[Array, " 4"]) -> Float[Array, "N C"]:
        """u_x(c) = prod over i of (c_i / (1 + x_i))^alpha_i."""
        # Written as two products: the derivative of a power of 0 would not be finite.
        bought = jnp.prod(self.bundles ** self.preferences[:, None], axis=-1)
        return bought * jnp.prod((1 + x[1:]) ** -self.preferences, axis=-1, keepdims=True)

    def split(self, x: Float[Array, " 4"]) -> Float[Array, "N T C"]:
        """The probability of each bundle of a total: softmax of u_x(c) / tau among them."""
        utility = self.bundle_utility(x)[:, None] / self.tau
        return jax.nn.softmax(utility, axis=-1, where=self.member)

    def lower(self, x: Float[Array, " 4"]) -> MDP:
        """The consumers' MDP: r = u(m) - h^2 / 10 + U_x(t), u(m) = log(1 + m/20) or m below 0."""
        utility = self.bundle_utility(x)[:, None] / self.tau
        spending = self.tau * jax.nn.logsumexp(utility, axis=-1, where=self.member)
        effort = 0.1 * self.hours**2
        acts = (spending[:, None] - effort[:, None]).reshape(len(self.preferences), 1, -1)
        # The absolute value, since the branch not taken is computed as well.
        wealth = jnp.where(self.assets > 0, jnp.log1p(jnp.abs(self.assets) / 20), self.assets)
        return MDP(
            wealth[:, None] + acts,
            DenseTransition(self.kernel(x)),
            discount=self.discount,
            initial=self.initial,
            tau=self.tau,
        )

    def upper_reward(self, x: Float[Array, " 4"]) -> Float[Array, "N S A"]:
        """15 mean_i(c_i / (1 + x_i)) / 5 + 5 log(1 + tax), averaged over the split of a total.

        The tax of a step is sum_i x_i c_i / (1 + x_i) + x_0 h.
        """
        bought = self.bundles / (1 + x[1:])
        tax = bought @ x[1:] + x[0] * self.hours[:, None]
        welfare = 15 * jnp.mean(bought, axis=-1) / LARGEST_SPENDING + 5 * jnp.log1p(tax)
        by_action = jnp.einsum("ntc,hc->nht", self.split(x), welfare)
        kinds, actions = len(self.preferences), self.hours.size * self.totals.size
        every = by_action.reshape(kinds, 1, actions)
        return jnp.broadcast_to(every, (kinds, self.assets.size, actions))

    def upper(self, x: Float[Array, " 4"], policy, evaluation: Evaluation) -> Scalar:
        """Minus the government's return, averaged over consumers."""
        return -evaluation.expected_return(self.upper_reward(x))

    def project(self, x: Float[Array, " 4"]) -> Float[Array, " 4"]:
        """The projection onto [0, 2]^4."""
        return optax.projections.projection_box(x, 0.0, LARGEST_RATE)

    def mean_hours(self, policy: Float[Array, "N S A"]) -> Float[Array, "N S"]:
        """Expected hours of work at each level of assets."""
        return policy @ jnp.repeat(self.hours, self.totals.size)

    def mean_spending(
        self, x: Float[Array, " 4"], policy: Float[Array, "N S A"]
    ) -> Float[Array, "N S 3"]:
        """Expected money spent on each good, taxes included, at each level of assets."""
        by_total = policy.reshape(*policy.shape[:2], self.hours.size, -1).sum(2)
        return by_total @ (self.split(x) @ self.bundles)


@eqx.filter_jit
def on_grid(
    mean: Float[Array, "*shape"], scale: float, grid: Float[Array, " S"]
) -> Float[Array, "*shape S"]:
    """Probabilities on a grid that stand for a normal law cut off at the ends of the grid.

    Grid point j gets E[hat_j(X)], hat_j the piecewise linear function that is 1 there and 0 at all
    others: each bit of mass goes to its two neighbours so that its mean stays. Hence rows have the
    mean of the law itself, and a variance larger by up to a quarter of the squared spacing; an
    expectation is exact for functions linear between points. Smooth in ``mean``.
    """
    at = (grid - mean[..., None]) / scale
    # The error function, since only differences count: it costs less than the whole law.
    below, height = 0.5 * jax.lax.erf(at / 2**0.5), norm.pdf(at)
    mass, width = jnp.diff(below), jnp.diff(at)
    left = (at[..., 1:] * mass + jnp.diff(height)) / width
    edge = [(0, 0)] * mean.ndim
    parts = jnp.pad(left, [*edge, (0, 1)]) + jnp.pad(mass - left, [*edge, (1, 0)])
    # Far from the mean differences of rounded numbers may be as low as -1e-15.
    parts = jnp.maximum(parts, 0)
    return parts / jnp.sum(parts, axis=-1, keepdims=True)


def asset_grid(points: int) -> np.ndarray:
    """An odd number of points on [-100, 100], 0 among them: dense there, where consumers live.

    u(m) has its kink at 0, and linear interpolation is exact far below it, where u is linear.
    """
    even = np.linspace(-1, 1, points)
    return LARGEST_ASSETS * np.sinh(_DENSER * even) / np.sinh(_DENSER)


def tax(*, assets: int = 41, levels: int = 5, tau: float = 0.3) -> ZooProblem:
    """Tax rates on income and three goods, so that consumers consume and pay taxes.

    A consumer with assets m chooses hours h of work, at a wage of 1, and how much c_i to spend on
    each of three goods; next m' = clip(m + (1 - x_0) h - sum_i c_i) plus a shock, normal with
    standard deviation 5 and cut off so that m' stays in [-100, 100]. It earns u(m) - h^2 / 10 +
    prod_i (c_i / (1 + x_i))^alpha_i, u(m) = log(1 + m/20) above 0 and m below (debt hurts at once).
    Half of the consumers have alpha = (.6, .3, .1), half (.1, .7, .2). First assets are N(0, 2),
    where 2 is the variance. The government maximises the discounted sum of
    15 mean_i(c_i / (1 + x_i)) / 5 + 5 log(1 + sum_i x_i c_i / (1 + x_i) + x_0 h): what is consumed,
    and taxes. Money and assets share one unit, hours are scaled to at most 8.01, and a rate of 1
    takes the whole wage (x_0) or doubles a price. Source: Thoma et al. 2024 (HPGD), arXiv
    2406.01575, where assets are continuous, consumers learn a network and an episode has 200 steps;
    how the shock is cut off, and that 2 is a variance, are facts of the authors' published program.

    Arguments:
        assets: grid points of m, odd so that 0 is one; see ``asset_grid`` and ``on_grid``. At all
            rates .3 F on 41 points is .4 per cent above that on 401, and on 81 .1 per cent.
        levels: values of c_i, from 0 to 5; there are twice as many of h, from 0 to 8.01. 5 is the
            published grid of 10 x 5 x 5 x 5 actions, which costs no more than 10 x 13: only the sum
            of spending matters for what follows (``TaxDesign``). The kernel is one dense array
            ``[S, A, S]`` for both kinds of consumers, 1.7 MB by default; shocks reach every point,
            and those that matter move with x, so lists of successors would gain nothing.
        tau: weight of the consumers' entropy; published are .1, .2 and .3.
    """
    if assets < 3 or assets % 2 == 0:
        raise ValueError(f"tax: assets is {assets}; give an odd number of points, 3 or more.")
    if levels < 2:
        raise ValueError(f"tax: levels is {levels}; give at least 2.")
    check_positive_tau("tax", tau)
    problem = _tax_design(assets, levels, tau)
    at_start = -float(upper_at_best_response(problem, jnp.full(4, START_RATE)))
    return ZooProblem(
        name="tax",
        summary=(
            "A government taxes income and three goods; consumers decide how much to work, spend "
            "and save; the government wants high consumption and tax revenue."
        ),
        problem=problem,
        starts=_starts,
        maximize=True,
        solver=PBRL(penalty_weight=Homotopy(1.0, 1e3, 160), update=settling(200)),
        steps=200,
        settles=settling,
        default_starts=4,
        figure=partial(_figure, problem),
        known={"all rates .3, the published start": at_start},
        arrays=partial(_arrays, problem),
        measures=partial(_measures, problem),
    )


def _tax_design(assets: int, levels: int, tau: float) -> TaxDesign:
    array = lambda values: jnp.asarray(values, float)
    grid = array(asset_grid(assets))
    steps = np.stack(np.meshgrid(*3 * [np.arange(levels)], indexing="ij"), -1).reshape(-1, 3)
    unit = LARGEST_SPENDING / (levels - 1)
    totals = np.arange(3 * (levels - 1) + 1)
    return TaxDesign(
        assets=grid,
        hours=array(np.linspace(0, LONGEST_HOURS, 2 * levels)),
        totals=array(unit * totals),
        bundles=array(unit * steps),
        member=jnp.asarray(steps.sum(-1) == totals[:, None]),
        preferences=array(PREFERENCES),
        initial=on_grid(array(0.0), START_SPREAD, grid) / len(PREFERENCES),
        tau=array(tau),
        discount=array(DISCOUNT),
    )


@eqx.filter_jit
def upper_at_best_response(problem: TaxDesign, x: Float[Array, " 4"]) -> Scalar:
    """F(x), not a number where the best response was not found."""
    mdp = problem.lower(x)
    response = best_responses(mdp)
    upper = problem.upper(x, response.policy, evaluate(mdp, response.policy))
    return jnp.where(jnp.all(response.found), upper, jnp.nan)


def _starts(key: Key, n: int) -> Float[Array, "n 4"]:
    """All rates .3 first; then uniform in the box and within .1 of .3 in turn."""
    index = jnp.arange(n)[:, None]
    near, wide = jax.random.uniform(key, (2, n, 4))
    near = START_RATE + jnp.where(index == 0, 0, 0.1 * (2 * near - 1))
    return jnp.where(index % 2 == 0, near, LARGEST_RATE * wide)


def _measures(problem, solution: Solution) -> dict[str, tuple[float, str]]:
    x = solution.x
    names = ("income", "good_1", "good_2", "good_3")
    rates = {
        f"tax_{name}": (float(rate), f"rate of the tax on {name.replace('_', ' ')}, in [0, 2]")
        for name, rate in zip(names, x, strict=True)
    }
    seen = evaluate(problem.lower(x), solution.policy).occupancy
    hours = jnp.sum(seen * problem.mean_hours(solution.policy)) / jnp.sum(seen)
    return rates | dict(hours=(float(hours), "mean hours of work in a step, of at most 8.01"))


def _arrays(problem, solution: Solution) -> dict[str, np.ndarray]:
    x, policy = solution.x, solution.policy
    return dict(
        x=np.asarray(x),
        policy=np.asarray(policy),
        assets=np.asarray(problem.assets),
        hours=np.asarray(problem.mean_hours(policy)),
        spending=np.asarray(problem.mean_spending(x, policy)),
    )


def _figure(problem, solution: Solution) -> "Figure":
    from ._tax_figure import Habits, tax_figure

    seen = evaluate(problem.lower(solution.x), solution.policy).occupancy
    kept = _arrays(problem, solution)
    return tax_figure(
        kept["x"],
        Habits(
            kept["assets"],
            kept["hours"],
            kept["spending"],
            np.asarray(seen / jnp.sum(seen, axis=-1, keepdims=True)),
        ),
        preferences=PREFERENCES,
        title=f"Tax design: the government's return {-float(solution.best_response_value):.2f}",
    )
