"""Make the plan: measured costs, measured losses, and the search for the forms that pay."""

from qcompress.planning.make import DEFAULT_BUDGET, PlanSettings, make_plan
from qcompress.planning.search import Effort

__all__ = ["DEFAULT_BUDGET", "Effort", "PlanSettings", "make_plan"]
