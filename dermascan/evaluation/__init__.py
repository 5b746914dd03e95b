"""Figures of merit of a scored test set, each with what chance alone would explain.

Every figure is a function of image weights. The point estimate weighs each image once; an
interval comes from the same function with the images of lesions drawn with replacement.
A figure that is not defined, such as a ROC AUC on benign lesions only, is None.
"""

from dermascan.evaluation.bootstrap import CONFIDENCE, DEFAULT_RESAMPLES
from dermascan.evaluation.calibration import RELIABILITY_BINS
from dermascan.evaluation.comparison import Comparison, compare
from dermascan.evaluation.evaluator import evaluate
from dermascan.evaluation.lookup import figure
from dermascan.evaluation.ranking import Ranking
from dermascan.evaluation.schema import (
    CalibrationFigures,
    ClassFigures,
    CorruptionFigures,
    CoveragePoint,
    DecisionPoint,
    Efficiency,
    Estimate,
    Evaluation,
    ExplanationCheck,
    MalignantFigures,
    OperatingFigures,
    ReliabilityBin,
    Robustness,
    Slice,
    SliceGroup,
    WorstSlice,
)
from dermascan.evaluation.scored import REQUIRED_COLUMNS, test_set_fingerprint
from dermascan.evaluation.slices import SMALLEST_SLICE, UNKNOWN
from dermascan.evaluation.statistic import Flags, Floats
from dermascan.taxonomy import CLASS_COLUMNS

__all__ = [
    "CLASS_COLUMNS",
    "CONFIDENCE",
    "DEFAULT_RESAMPLES",
    "RELIABILITY_BINS",
    "REQUIRED_COLUMNS",
    "SMALLEST_SLICE",
    "UNKNOWN",
    "CalibrationFigures",
    "ClassFigures",
    "Comparison",
    "CorruptionFigures",
    "CoveragePoint",
    "DecisionPoint",
    "Efficiency",
    "Estimate",
    "Evaluation",
    "ExplanationCheck",
    "Flags",
    "Floats",
    "MalignantFigures",
    "OperatingFigures",
    "Ranking",
    "ReliabilityBin",
    "Robustness",
    "Slice",
    "SliceGroup",
    "WorstSlice",
    "compare",
    "evaluate",
    "figure",
    "test_set_fingerprint",
]
