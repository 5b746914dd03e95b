"""Evaluation and prediction reports: one HTML file each, which needs nothing but itself."""

from dermascan.figures import LearningCurve
from dermascan.reporting.evaluation import evaluation_report
from dermascan.reporting.gallery import GalleryChoice, GalleryItem, choose_gallery
from dermascan.reporting.page import ReportContext
from dermascan.reporting.predictions import (
    GALLERY_LIMIT,
    PICTURE_BYTES_LIMIT,
    BatchReport,
    ModelExcerpt,
    predictions_report,
)

__all__ = [
    "GALLERY_LIMIT",
    "PICTURE_BYTES_LIMIT",
    "BatchReport",
    "GalleryChoice",
    "GalleryItem",
    "LearningCurve",
    "ModelExcerpt",
    "ReportContext",
    "choose_gallery",
    "evaluation_report",
    "predictions_report",
]
