"""Charts as inline SVG that takes its colours from the page around it, light or dark."""

from dermascan.figures.calibration import reliability
from dermascan.figures.canvas import standalone
from dermascan.figures.decisions import decision_curve, risk_coverage
from dermascan.figures.discrimination import (
    precision_recall,
    risk_distribution,
    roc,
    score_distribution,
)
from dermascan.figures.learning import LearningCurve, learning_losses, learning_scores
from dermascan.figures.robustness import corruption_lines

__all__ = [
    "LearningCurve",
    "corruption_lines",
    "decision_curve",
    "learning_losses",
    "learning_scores",
    "precision_recall",
    "reliability",
    "risk_coverage",
    "risk_distribution",
    "roc",
    "score_distribution",
    "standalone",
]
