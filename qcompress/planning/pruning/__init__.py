"""Pruning as a stage of its own: a float model goes in, a float model with fewer weights comes out."""

from qcompress.planning.pruning.stage import Pruned, prune_model, replay_pruning

__all__ = ["Pruned", "prune_model", "replay_pruning"]
