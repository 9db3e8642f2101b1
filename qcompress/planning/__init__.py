"""Make the plan: measured costs, measured losses, and the search for the forms that pay."""

from qcompress.planning.codes import Planned, find_codes
from qcompress.planning.frontier import FrontierPoint, RankedLoss, make_frontier, rank_losses
from qcompress.planning.make import PlanSettings, make_plan, open_workplace
from qcompress.planning.search import Effort

__all__ = [
    "Effort",
    "FrontierPoint",
    "PlanSettings",
    "Planned",
    "RankedLoss",
    "find_codes",
    "make_frontier",
    "make_plan",
    "open_workplace",
    "rank_losses",
]
