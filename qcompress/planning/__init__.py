"""Make the plan: measured costs, measured losses, and the search for the forms that pay."""

from qcompress.planning.make import make_plan

__all__ = ["make_plan"]
