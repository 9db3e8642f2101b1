"""Channels that must go together, found in the graph and cut out of it."""

from qcompress.structure.costs import multiply_adds, shapes_after
from qcompress.structure.cut import cut
from qcompress.structure.find import find_groups
from qcompress.structure.groups import Blocked, ChannelGroup, Extent, Groups, Number, Slice
from qcompress.structure.rules import RULES, SHAPE_RULES

__all__ = [
    "RULES",
    "SHAPE_RULES",
    "Blocked",
    "ChannelGroup",
    "Extent",
    "Groups",
    "Number",
    "Slice",
    "cut",
    "find_groups",
    "multiply_adds",
    "shapes_after",
]
