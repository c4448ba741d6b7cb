"""Sampled and neural bilevel RL: rollouts, actor-critics, preferences, RLHF."""
