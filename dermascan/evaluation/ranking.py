"""What an order by score is worth: ROC and precision-recall curves, and figures read off them."""

from typing import cast

import numpy as np

from dermascan.evaluation.statistic import Flags, Floats, Statistic, ratio

# A rate reached by 9 of 10 images counts as 0.9, whatever its last bit.
_RATE_TOLERANCE = 1e-12


class Ranking:
    """Images ordered by falling score, ties together.

    Args:
        positive: what is to be found, bool [images].
        scores: higher is more likely positive, float [images].
    """

    def __init__(self, positive: Flags, scores: Floats) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._positive = positive[self._order]
        is_last_of_tie = np.ones(len(scores), dtype=bool)
        is_last_of_tie[:-1] = np.diff(scores[self._order]) != 0
        self._ends = np.flatnonzero(is_last_of_tie)

    def hits(self, weights: Floats) -> tuple[Floats, Floats]:
        """Count positives and negatives at or above each distinct score.

        Args:
            weights: [resamples, images].

        Returns:
            Two arrays [resamples, distinct scores + 1] that begin with 0.
        """
        ordered = weights[:, self._order]
        return self._accumulate(ordered * self._positive), self._accumulate(
            ordered * ~self._positive
        )

    def roc(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return false and true positive rates, each [resamples, distinct scores + 1]."""
        true, false = self.hits(weights)
        return ratio(false, false[:, -1:]), ratio(true, true[:, -1:])

    def precision_recall(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return precision and recall, each [resamples, distinct scores + 1]; precision[0] NaN."""
        true, false = self.hits(weights)
        return ratio(true, true + false), ratio(true, true[:, -1:])

    def roc_auc(self, weights: Floats) -> Floats:
        """Return the area under the ROC curve [resamples], ties counted half."""
        false_rate, true_rate = self.roc(weights)
        return cast("Floats", np.trapezoid(true_rate, false_rate, axis=1))

    def partial_auc_above(self, sensitivity: float) -> Statistic:
        """Return the statistic of the area between the ROC curve and a sensitivity.

        It is 0 to 1 - `sensitivity`, half the square of that by chance.

        Source:
            ISIC 2024 challenge, "pAUC above 80 % TPR": not rescaled.
        """

        def statistic(weights: Floats) -> Floats:
            false_rate, true_rate = self.roc(weights)
            above = np.maximum(true_rate - sensitivity, 0)
            rise = np.diff(true_rate, axis=1)
            # The mean height of a segment that begins below the line counts from its crossing.
            mean_height = np.where(
                rise > 0, ratio(np.diff(above**2, axis=1), 2 * rise), above[:, 1:]
            )
            area: Floats = np.sum(mean_height * np.diff(false_rate, axis=1), axis=1)
            return np.where(np.isnan(true_rate[:, -1]), np.nan, area)

        return statistic

    def average_precision(self, weights: Floats) -> Floats:
        """Return the precision averaged over steps of recall [resamples], not interpolated."""
        precision, recall = self.precision_recall(weights)
        steps = np.diff(recall, axis=1)
        # Precision is not defined before the first image that counts: no recall is gained there.
        area = np.sum(steps * np.nan_to_num(precision[:, 1:]), axis=1)
        return cast("Floats", area)

    def sensitivity_at(self, specificity: float) -> Statistic:
        """Return the statistic of the best true positive rate at `specificity` or more."""

        def statistic(weights: Floats) -> Floats:
            false_rate, true_rate = self.roc(weights)
            allowed = false_rate <= 1 - specificity + _RATE_TOLERANCE
            best = np.max(np.where(allowed, true_rate, 0.0), axis=1)
            return _where_defined(best, false_rate, true_rate)

        return statistic

    def specificity_at(self, sensitivity: float) -> Statistic:
        """Return the statistic of the best true negative rate at `sensitivity` or more."""

        def statistic(weights: Floats) -> Floats:
            false_rate, true_rate = self.roc(weights)
            allowed = true_rate >= sensitivity - _RATE_TOLERANCE
            best = 1 - np.min(np.where(allowed, false_rate, 1.0), axis=1)
            return _where_defined(best, false_rate, true_rate)

        return statistic

    def _accumulate(self, ordered: Floats) -> Floats:
        sums = np.cumsum(ordered, axis=1)[:, self._ends]
        return np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)


def _where_defined(figure: Floats, false_rate: Floats, true_rate: Floats) -> Floats:
    defined = ~np.isnan(false_rate[:, -1]) & ~np.isnan(true_rate[:, -1])
    return np.where(defined, figure, np.nan)
