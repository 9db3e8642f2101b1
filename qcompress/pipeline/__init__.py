"""The whole story of one compression, and of its shorter cousins: a dry run, an inspection, a comparison."""

from qcompress.pipeline.compressing import compare_models, compress, versions
from qcompress.pipeline.inspecting import Inspection, inspect_model
from qcompress.pipeline.opening import RunOptions, load_prepared, prepared_from
from qcompress.pipeline.planning import measure_pruning, measure_sensitivity, plan_compression, plan_frontier
from qcompress.planning import FrontierPoint, RankedLoss
from qcompress.planning.pruning import PruneLoss

__all__ = [
    "FrontierPoint",
    "Inspection",
    "PruneLoss",
    "RankedLoss",
    "RunOptions",
    "compare_models",
    "compress",
    "inspect_model",
    "load_prepared",
    "measure_pruning",
    "measure_sensitivity",
    "plan_compression",
    "plan_frontier",
    "prepared_from",
    "versions",
]
