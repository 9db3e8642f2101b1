"""Pruning as a stage of its own: a float model goes in, a float model with fewer weights comes out."""

from qcompress.planning.pruning.stage import Pruned, PruneLoss, prune_model, rank_prunes, replay_pruning, stored_exactly
from qcompress.planning.pruning.tasks import EXACT

__all__ = ["EXACT", "PruneLoss", "Pruned", "prune_model", "rank_prunes", "replay_pruning", "stored_exactly"]
