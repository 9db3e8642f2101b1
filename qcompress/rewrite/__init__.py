"""A plan becomes graph edits."""

from qcompress.rewrite.apply import apply_plan

__all__ = ["apply_plan"]
