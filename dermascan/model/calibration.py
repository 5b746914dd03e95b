"""Choices made on validation scores: calibration, operating threshold, and the AUC to rank by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from dermascan.errors import InputError

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]
Target = Literal["specificity", "sensitivity"]

# A rate reached by 9 of 10 images counts as 0.9, whatever its last bit.
RATE_TOLERANCE = 1e-12

_TEMPERATURES = (0.05, 20.0)
_GOLDEN_STEPS = 60
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_NEWTON_STEPS = 100
_NEWTON_TOLERANCE = 1e-9
_SUFFICIENT_DECREASE = 1e-4
_RIDGE = 1e-12  # keeps the Hessian invertible where all scores are equal
_WORTH_A_PARAMETER = 3.84  # chi-squared with one degree of freedom: 95 % lie below
_SMALLEST = 1e-45  # what is less is 0 in float32


class Calibration(BaseModel):
    """How logits (N, C) become probabilities. Every part is the identity by default.

    Malignant and benign classes are two groups. With z = logits / `temperature`:

    1. Within a group, a class has the share softmax(z + `class_offsets`) over the group's
       classes. This changes which class is likeliest, not the sum of a group.
    2. p_malignant = sigmoid(`malignant_slope` * log q - `benign_slope` * log(1 - q)
       + `malignant_offset`), where q is the malignant group's share of softmax(z). Of equal
       slopes that is a line in the log-odds of q; unequal ones bend it, steeper at one end. As
       both are positive, no image overtakes another.
    3. A class has the probability of its group times its share.

    Attributes:
        temperature: the logits are divided by it; above 1 the network was too sure.
        class_offsets: one for each class, in the order of the logits; empty for none.
        malignant_slope: see above.
        malignant_offset: see above.
        benign_slope: see above; None for that of the malignant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(default=1.0, gt=0)
    class_offsets: tuple[float, ...] = ()
    malignant_slope: float = Field(default=1.0, gt=0)
    malignant_offset: float = 0.0
    benign_slope: float | None = Field(default=None, gt=0)

    @property
    def slopes(self) -> tuple[float, float]:
        """Return the slopes of the malignant and of the benign group."""
        malignant = self.malignant_slope
        return malignant, malignant if self.benign_slope is None else self.benign_slope


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does on the images that it was chosen on.

    Attributes:
        threshold: `p_malignant` from which an image is called malignant, 0..1.
        sensitivity: share of the malignant that are called so; None without any.
        specificity: share of the benign that are not; None without any.
    """

    threshold: float
    sensitivity: float | None
    specificity: float | None


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (N, C) of logits (N, C) after division by `temperature`."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def cross_entropy(logits: Floats, labels: NDArray[np.integer], temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood in nats of labels (N,) under logits (N, C)."""
    scaled = np.asarray(logits, np.float64) / temperature
    top = scaled.max(axis=1)
    normaliser = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float(np.mean(normaliser - scaled[np.arange(len(labels)), labels]))


def malignant_logit(
    logits: Floats, malignant_indices: Sequence[int], temperature: float = 1.0
) -> NDArray[np.float64]:
    """Return the log-odds (N,) of the malignant classes together, before calibration.

    Args:
        logits: (N, C).
        malignant_indices: columns of the malignant classes, neither none nor all.
        temperature: the logits are divided by it.

    Raises:
        InputError: one of the two groups has no class.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    malignant = _malignant_columns(scaled.shape[1], malignant_indices)
    return _log_sum(scaled[:, malignant]) - _log_sum(scaled[:, ~malignant])


def apply(
    logits: Floats, calibration: Calibration, malignant_indices: Sequence[int]
) -> NDArray[np.float64]:
    """Return calibrated probabilities: what an exported model computes from its logits.

    Args:
        logits: (N, C), averaged over networks and views.
        calibration: what to apply; the identity gives `softmax(logits)`.
        malignant_indices: columns of the malignant classes, neither none nor all.

    Returns:
        (N, C), rows add up to 1; the malignant columns add up to `p_malignant`.

    Raises:
        InputError: one of the two groups has no class, or the offsets are too few or many.
    """
    scaled = np.asarray(logits, np.float64) / calibration.temperature
    odds = _bent(malignant_logit(scaled, malignant_indices), calibration)
    offsets = _offsets(calibration, scaled.shape[1])
    return _recombined(scaled + offsets, odds, malignant_indices)


def uncalibrated(
    probabilities: Floats, calibration: Calibration, malignant_indices: Sequence[int]
) -> NDArray[np.float64]:
    """Undo `apply`: return `softmax(logits)` of the same images.

    Args:
        probabilities: (N, C) as the calibrated model gave them; float32 is enough.
        calibration: of that model.
        malignant_indices: columns of the malignant classes, neither none nor all.

    Raises:
        InputError: as `apply`.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), _SMALLEST))
    odds = _straightened(malignant_logit(logs, malignant_indices), calibration)
    shares = logs - _offsets(calibration, logs.shape[1])
    tempered = _recombined(shares, odds, malignant_indices)
    return softmax(calibration.temperature * np.log(np.maximum(tempered, _SMALLEST)))


def _bent(odds: Floats, calibration: Calibration) -> NDArray[np.float64]:
    """Return calibrated log-odds (N,) of those before."""
    malignant, benign = calibration.slopes
    line: NDArray[np.float64] = _groups_logs(odds) @ (malignant, benign)
    return line + calibration.malignant_offset


def _straightened(odds: Floats, calibration: Calibration) -> NDArray[np.float64]:
    """Undo `_bent` by Newton's method, which converges: the curve rises and bends one way."""
    malignant, benign = calibration.slopes
    found = (np.asarray(odds, np.float64) - calibration.malignant_offset) / malignant
    for _ in range(_NEWTON_STEPS):
        share = _sigmoid(found)
        rise = malignant * (1 - share) + benign * share
        found -= (_bent(found, calibration) - odds) / rise
    return found


def _groups_logs(odds: Floats) -> NDArray[np.float64]:
    """Return log q and -log(1 - q), (N, 2), of the malignant group's share q with these odds."""
    exact = np.asarray(odds, np.float64)
    return np.column_stack([-np.logaddexp(0.0, -exact), np.logaddexp(0.0, exact)])


def _recombined(
    logits: Floats, odds: Floats, malignant_indices: Sequence[int]
) -> NDArray[np.float64]:
    """Give each group the probability that `odds` (N,) say, divided within as `logits` say."""
    malignant = _malignant_columns(logits.shape[1], malignant_indices)
    result = np.empty(logits.shape, np.float64)
    for group, sign in ((malignant, 1.0), (~malignant, -1.0)):
        log_group = -np.logaddexp(0.0, -sign * odds)
        log_shares = logits[:, group] - _log_sum(logits[:, group])[:, None]
        result[:, group] = np.exp(log_group[:, None] + log_shares)
    return result


def _offsets(calibration: Calibration, classes: int) -> NDArray[np.float64]:
    given = calibration.class_offsets
    if given and len(given) != classes:
        raise InputError(f"the calibration has {len(given)} class offsets for {classes} classes")
    return np.asarray(given or (0.0,) * classes, np.float64)


def _malignant_columns(classes: int, malignant_indices: Sequence[int]) -> Flags:
    malignant = np.isin(np.arange(classes), malignant_indices)
    if malignant.all() or not malignant.any():
        raise InputError("calibration needs both malignant and benign classes: mend the taxonomy")
    return malignant


def _log_sum(logits: Floats) -> NDArray[np.float64]:
    top = logits.max(axis=1)
    result: NDArray[np.float64] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return result


def fit_calibration(
    logits: Floats,
    labels: NDArray[np.integer],
    malignant_indices: Sequence[int],
    *,
    class_offsets: tuple[float, ...] = (),
    malignant: bool = False,
) -> Calibration:
    """Fit a calibration on held-out logits: the temperature, then `p_malignant` if asked to.

    Args:
        logits: (N, C) of images that were not trained on, N > 0.
        labels: int (N,), 0..C-1.
        malignant_indices: columns of the malignant classes, neither none nor all.
        class_offsets: taken over as they are; see `class_offsets`.
        malignant: whether to fit slopes and offset of `p_malignant` too.
    """
    temperature = fit_temperature(logits, labels)
    fitted = Calibration(temperature=temperature, class_offsets=class_offsets)
    if not malignant:
        return fitted
    odds = malignant_logit(logits, malignant_indices, temperature)
    slope, benign_slope, offset = fit_beta(odds, np.isin(labels, malignant_indices))
    return fitted.model_copy(
        update={
            "malignant_slope": slope,
            "benign_slope": benign_slope,
            "malignant_offset": offset,
        }
    )


def fit_temperature(logits: Floats, labels: NDArray[np.integer]) -> float:
    """Find the temperature that makes held-out probabilities most likely.

    Args:
        logits: (N, C) of images that were not trained on, N > 0.
        labels: int (N,), 0..C-1.

    Returns:
        The minimiser of the cross-entropy between 0.05 and 20; above 1 the network was too sure.

    Source:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. The
        cross-entropy has one minimum in the temperature, so golden-section search finds it.
    """
    low, high = np.log(_TEMPERATURES)
    for _ in range(_GOLDEN_STEPS):
        step = _GOLDEN_RATIO * (high - low)
        left, right = high - step, low + step
        if cross_entropy(logits, labels, np.exp(left)) < cross_entropy(
            logits, labels, np.exp(right)
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def fit_platt(log_odds: Floats, malignant: Flags) -> tuple[float, float]:
    """Fit the sigmoid that turns log-odds into probabilities of malignancy.

    Args:
        log_odds: (N,) of images that were not trained on, as from `malignant_logit`.
        malignant: the truth (N,).

    Returns:
        Slope and offset; the identity (1, 0) when one of the groups is empty, and when the
        scores rank the wrong way round, which a calibration must not mend.

    Source:
        Platt, Probabilistic outputs for support vector machines, 1999: the targets are drawn
        in from 0 and 1 as if each group had one more image, which bounds the slope when the
        groups are apart. Lin, Lin and Weng, Machine Learning 68:267-276, 2007: Newton's method
        with backtracking, and the form of the loss that does not overflow.
    """
    if malignant.all() or not malignant.any():
        return 1.0, 0.0
    inputs = np.column_stack([np.asarray(log_odds, np.float64), np.ones(len(malignant))])
    positives, negatives = int(malignant.sum()), int((~malignant).sum())
    line = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    line = _fitted(inputs, _drawn_in(malignant), line)
    return (float(line[0]), float(line[1])) if line[0] > 0 else (1.0, 0.0)


def fit_beta(log_odds: Floats, malignant: Flags) -> tuple[float, float, float]:
    """Fit the curve that turns log-odds into probabilities of malignancy: a line or a bent one.

    The bent one has a slope for each end. It is taken only where it makes the outcomes so much
    likelier than the line that chance would do so once in twenty times, for with few images, or
    scores that lie close together, its second slope is anybody's guess.

    Args:
        log_odds: (N,) of images that were not trained on, as from `malignant_logit`.
        malignant: the truth (N,).

    Returns:
        `malignant_slope`, `benign_slope` and `malignant_offset` of a `Calibration`, both slopes
        positive and, for a line, equal; (1, 1, 0) where `fit_platt` has nothing to fit.

    Source:
        Kull, Silva Filho and Flach, Beta calibration, AISTATS 2017. Wilks, The large-sample
        distribution of the likelihood ratio, Ann. Math. Stat. 9:60-62, 1938.
    """
    slope, offset = fit_platt(log_odds, malignant)
    if malignant.all() or not malignant.any():
        return slope, slope, offset
    inputs = np.column_stack([_groups_logs(log_odds), np.ones(len(malignant))])
    targets, line = _drawn_in(malignant), np.array([slope, slope, offset])
    curve = _fitted(inputs, targets, line)
    gained = _sigmoid_loss(inputs @ line, targets) - _sigmoid_loss(inputs @ curve, targets)
    chosen = curve if curve[:2].min() > 0 and 2 * gained > _WORTH_A_PARAMETER else line
    return float(chosen[0]), float(chosen[1]), float(chosen[2])


def _drawn_in(malignant: Flags) -> NDArray[np.float64]:
    """Return Platt's targets: 1 and 0, as if each group had one image more."""
    positives, negatives = int(malignant.sum()), int((~malignant).sum())
    return np.where(malignant, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def _fitted(inputs: Floats, targets: Floats, line: Floats) -> Floats:
    """Find the coefficients of `inputs` (N, k) that make `targets` (N,) likeliest."""
    for _ in range(_NEWTON_STEPS):
        gradient = inputs.T @ (_sigmoid(inputs @ line) - targets)
        if np.abs(gradient).max() < _NEWTON_TOLERANCE * len(targets):
            break
        line = _newton_step(inputs, targets, line, gradient)
    return line


def _newton_step(inputs: Floats, targets: Floats, line: Floats, gradient: Floats) -> Floats:
    likely = _sigmoid(inputs @ line)
    curvature = (inputs * (likely * (1 - likely))[:, None]).T @ inputs + _RIDGE * np.eye(len(line))
    direction = np.linalg.solve(curvature, gradient)
    present, length = _sigmoid_loss(inputs @ line, targets), 1.0
    while length > _NEWTON_TOLERANCE:
        moved: Floats = line - length * direction
        wanted = present - _SUFFICIENT_DECREASE * length * gradient @ direction
        if _sigmoid_loss(inputs @ moved, targets) < wanted:
            return moved
        length /= 2
    return line


def _sigmoid(log_odds: Floats) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -log_odds))


def _sigmoid_loss(log_odds: Floats, targets: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, log_odds) - targets * log_odds))


def class_offsets(
    counts: Sequence[float], power: float, malignant_indices: Sequence[int]
) -> tuple[float, ...]:
    """Return offsets that favour the rarer classes of each group, for `Calibration`.

    Args:
        counts: (C,) images of each class in training or validation, or shares.
        power: 0 changes nothing; 1 takes the prior of a class within its group out of the
            posterior, which the balanced accuracy rewards.
        malignant_indices: columns of the malignant classes, neither none nor all.

    Returns:
        -power * log(prior within the group), shifted to 0 for the most frequent class of each
        group (a shift of a group changes nothing); 0 for a class without any image, of whose
        prior nothing is known.

    Source:
        Menon et al., Long-tail learning via logit adjustment, ICLR 2021, section 4.1.
    """
    numbers = np.asarray(counts, np.float64)
    malignant = _malignant_columns(len(numbers), malignant_indices)
    most = np.where(malignant, numbers[malignant].max(), numbers[~malignant].max())
    seen = numbers > 0
    offsets = power * np.log(np.where(seen, most, 1.0) / np.where(seen, numbers, 1.0))
    return tuple(float(offset) for offset in offsets)


def roc_auc(scores: Floats, positive: Flags) -> float | None:
    """Return the area under the ROC curve: how often a positive outranks a negative.

    Args:
        scores: (N,), higher means more likely positive; ties count one half.
        positive: (N,).

    Returns:
        0..1, None unless there are both positives and negatives.
    """
    above, below = scores[positive], np.sort(scores[~positive])
    if not len(above) or not len(below):
        return None
    wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
    return float(wins.sum() / (2 * len(above) * len(below)))


def choose_threshold(
    scores: Floats, malignant: Flags, *, specificity: float | None = None
) -> OperatingPoint:
    """Choose the threshold with the highest sum of sensitivity and specificity, or for one.

    Youden's index weighs a missed malignancy and a false alarm alike *as shares of their own
    groups*, so the choice does not depend on how common malignancy is among the images.
    Of equally good thresholds the lowest is taken: it misses fewest. The threshold is put
    halfway to the next lower score, where new images are least likely to fall on its edge.

    Args:
        scores: `p_malignant` (N,), 0..1, of validation images only.
        malignant: the truth (N,).
        specificity: 0..1; then the threshold is that of `threshold_for`, whatever it misses,
            or 1 where none keeps it.

    Returns:
        The operating point; threshold 0.5 when one of the groups is empty.

    Source:
        Youden, Index for rating diagnostic tests, Cancer 3:32-35, 1950.
    """
    if malignant.all() or not malignant.any():
        return OperatingPoint(0.5, None, None)
    exact = np.asarray(scores, np.float64)
    if specificity is None:
        threshold: float | None = _youden_threshold(exact, malignant)
    else:
        threshold = threshold_for(malignant, exact, "specificity", specificity)
    if threshold is None:
        threshold = 1.0
    called = exact >= threshold
    return OperatingPoint(
        threshold, float(called[malignant].mean()), float((~called)[~malignant].mean())
    )


def threshold_for(malignant: Flags, scores: Floats, target: Target, level: float) -> float | None:
    """Choose the threshold that keeps a level of one rate and is best in the other.

    It is put halfway to the next lower score, where new images are least likely to fall on its
    edge.

    Args:
        malignant: the truth, bool (N,).
        scores: `p_malignant` (N,), 0..1.
        target: the rate to keep.
        level: of that rate among these images, 0..1.

    Returns:
        The lowest threshold that keeps a specificity, the highest that keeps a sensitivity;
        None if no image has the outcome that the rate is of, or no threshold up to 1 keeps it.
    """
    exact = np.asarray(scores, np.float64)
    group = exact[malignant if target == "sensitivity" else ~malignant]
    if not len(group):
        return None
    candidates = np.append(np.unique(exact), np.inf)
    below = _share_below(group, candidates)
    if target == "sensitivity":
        chosen = np.flatnonzero(1 - below >= level - RATE_TOLERANCE)[-1]
    else:
        chosen = np.flatnonzero(below >= level - RATE_TOLERANCE)[0]
    return _lowered(candidates, int(chosen))


def _youden_threshold(scores: Floats, malignant: Flags) -> float:
    candidates = np.unique(scores)
    missed = _share_below(scores[malignant], candidates)
    spared = _share_below(scores[~malignant], candidates)
    best = int(np.argmax(spared - missed))
    threshold = _lowered(candidates, best)
    return float(candidates[best]) if threshold is None else threshold


def _share_below(scores: Floats, thresholds: Floats) -> NDArray[np.float64]:
    below: NDArray[np.float64] = np.searchsorted(np.sort(scores), thresholds) / len(scores)
    return below


def _lowered(candidates: Floats, chosen: int) -> float | None:
    """Return what lies halfway to the candidate before; None if only a score above 1 would do."""
    low = float(candidates[chosen - 1]) if chosen else 0.0
    high = min(float(candidates[chosen]), 1.0)
    return (low + high) / 2 if low < high or not chosen else None
