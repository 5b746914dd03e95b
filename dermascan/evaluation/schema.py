"""What is known about a model on one test set, as data. Survives a JSON round trip."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

EVALUATION_VERSION = 3  # raise when equal models and images no longer give equal figures


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Frozen):
    """A figure and the 95 % interval of its bootstrap over lesions.

    Attributes:
        value: the figure on the test set, None where it is not defined.
        low, high: ends of the interval, percentiles of the resamples except for an ECE (see
            `Bootstrap.estimate_biased_upwards`); None where fewer than nine in ten resamples
            define the figure or the resamples do not differ, which says nothing about chance.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None


class ReliabilityBin(_Frozen):
    """Scores in [low, high), the last bin closed, against what was observed there."""

    low: float
    high: float
    images: int
    mean_score: float | None
    observed_rate: float | None


class OperatingFigures(_Frozen):
    """What a threshold fixed on validation does on the test set.

    Attributes:
        target: what the threshold was chosen for.
        level: of the target on validation, 0..1.
        threshold: `p_malignant` from which an image is called malignant; None if validation
            defines none.
        sensitivity, specificity: on the test set at that threshold.
    """

    target: Literal["specificity", "sensitivity"]
    level: float
    threshold: float | None
    sensitivity: Estimate
    specificity: Estimate


class MalignantFigures(_Frozen):
    """How well `p_malignant` tells malignant from benign lesions.

    Attributes:
        images: malignant images. prevalence: their share.
        majority_rate: accuracy of always answering the commoner of the two.
        accuracy, sensitivity, specificity, ppv, npv: at the threshold of the evaluation,
            where an image is called malignant if `p_malignant >= threshold`.
        partial_auc: area between the ROC curve and a sensitivity of 0.8, 0..0.2; by chance 0.02.
        sensitivity_at_80_specificity and the like: best of all thresholds on the test set's own
            ROC curve that keep the specificity (or sensitivity). They describe the ranking; what
            a threshold fixed beforehand does is in `Evaluation.operating_points`.
        brier: mean squared difference of score and outcome.
        brier_skill: 1 - Brier score / Brier score of always answering the prevalence.
        ece: expected calibration error over ten bins of equal width.
    """

    images: int
    prevalence: float | None
    majority_rate: float | None
    accuracy: Estimate
    roc_auc: Estimate
    average_precision: Estimate
    partial_auc: Estimate
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    sensitivity_at_80_specificity: Estimate
    sensitivity_at_90_specificity: Estimate
    sensitivity_at_95_specificity: Estimate
    specificity_at_80_sensitivity: Estimate
    specificity_at_90_sensitivity: Estimate
    specificity_at_95_sensitivity: Estimate
    brier: Estimate
    brier_skill: Estimate
    ece: Estimate


class ClassFigures(_Frozen):
    """One lesion class against the rest; recall and precision are of the likeliest class."""

    name: str
    images: int
    roc_auc: Estimate
    average_precision: Estimate
    recall: Estimate
    precision: Estimate


class Slice(_Frozen):
    """Malignant against benign on the images that share one property.

    Attributes:
        name: the value of the property.
        images, malignant: how many there are.
        balanced_accuracy: mean of sensitivity and specificity.
    """

    name: str
    images: int = 0
    malignant: int = 0
    roc_auc: Estimate = Estimate()
    sensitivity: Estimate = Estimate()
    specificity: Estimate = Estimate()
    balanced_accuracy: Estimate = Estimate()


class SliceGroup(_Frozen):
    """The values of one property, such as `sex`, that occur; no metadata, no slices."""

    name: str
    slices: tuple[Slice, ...]


class WorstSlice(_Frozen):
    """The slice with the lowest ROC AUC of those with enough malignant and benign images.

    Attributes:
        group: the property. name: its value.
        loss: ROC AUC of all images minus that of the slice.
    """

    group: str
    name: str
    images: int
    malignant: int
    roc_auc: Estimate
    loss: float


class CalibrationFigures(_Frozen):
    """`p_malignant` against outcomes on the test set, before or after calibration.

    Attributes:
        brier, ece, reliability: of `p_malignant`.
        cross_entropy: of the seven classes, nats.
    """

    brier: Estimate
    ece: Estimate
    cross_entropy: Estimate
    reliability: tuple[ReliabilityBin, ...]


class CoveragePoint(_Frozen):
    """The decisions on the most certain share of images.

    Attributes:
        coverage: the share that is decided on, 0..1; the rest is abstained from.
        images: how many that are, with all that are as certain as the last.
        error: share of wrong decisions among them. sensitivity, specificity: likewise.
    """

    coverage: float
    images: int
    error: float | None
    sensitivity: float | None
    specificity: float | None


class DecisionPoint(_Frozen):
    """Net benefit per image at a threshold probability; treating none has net benefit 0.

    Source:
        Vickers and Elkin, Decision curve analysis, Medical Decision Making 26:565-574, 2006.
    """

    threshold: float
    model: float
    treat_all: float


class CorruptionFigures(_Frozen):
    """ROC AUC on corrupted test images.

    Attributes:
        name: of the corruption. strength: 1..5.
        auc_lost: ROC AUC of the same images uncorrupted, minus this one.
    """

    name: str
    strength: int
    roc_auc: Estimate
    auc_lost: float | None


class Robustness(_Frozen):
    """What corruption costs.

    Attributes:
        images: that were corrupted in every way: the test set or a stratified subset of it.
        corruptions: each corruption and strength on these images.
        images_at_3: that were corrupted at strength 3: the whole test set unless it is large.
        malignant_at_3: how many of them are malignant.
        mean_auc_lost_at_3: mean over the corruptions at strength 3 on these images, clean and
            corrupted on the same resamples.
    """

    images: int
    corruptions: tuple[CorruptionFigures, ...]
    images_at_3: int
    malignant_at_3: int
    mean_auc_lost_at_3: Estimate


class ExplanationCheck(_Frozen):
    """Class activation maps against those of the same network with randomised weights.

    Attributes:
        images: how many were explained.
        similarity_randomised: mean rank correlation of the maps; near 0 is right.
        similarity_repeated: of the map with that of the mirrored image, mirrored back; near 1
            is right.
        passed: whether the maps depend on the weights and follow the image.

    Source:
        Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
    """

    images: int
    similarity_randomised: float | None
    similarity_repeated: float | None
    passed: bool | None


class Efficiency(_Frozen):
    """Cost of the exported model where it was evaluated.

    Attributes:
        bytes: of the exported files.
        milliseconds_per_image: median over batches of 32.
        milliseconds_single: one image at a time, median.
        cores: that were available.
    """

    bytes: int
    milliseconds_per_image: float
    milliseconds_single: float
    cores: int


class Evaluation(_Frozen):
    """All that is known about a model on one test set.

    Attributes:
        version: `EVALUATION_VERSION` of the code that measured.
        dataset: name of the dataset that the test set was split from, if known.
        test_set: names the test set by its images and their classes; two evaluations with
            the same name are of the same images.
        threshold: `p_malignant` from which an image is called malignant.
        temperature: that the scores were calibrated with.
        majority_rate: accuracy of always answering the commonest of the seven classes.
        balanced_accuracy: mean recall over the classes that occur.
        worst_slice: None if no slice has enough malignant and benign images.
        operating_points: thresholds fixed on validation.
        reliability: equals `calibrated.reliability`.
        coverage, area_under_risk_coverage: error when abstaining from uncertain images.
        confusion: images by true class (rows) and likeliest class (columns), both in the
            order of `LESION_CLASSES`.
        robustness, explanation, efficiency: None where not measured.
    """

    version: int
    dataset: str | None
    test_set: str
    threshold: float
    temperature: float
    images: int
    lesions: int
    resamples: int
    seed: int
    majority_rate: float | None
    accuracy: Estimate
    balanced_accuracy: Estimate
    malignant: MalignantFigures
    classes: tuple[ClassFigures, ...]
    slices: tuple[SliceGroup, ...]
    worst_slice: WorstSlice | None
    operating_points: tuple[OperatingFigures, ...]
    calibrated: CalibrationFigures
    uncalibrated: CalibrationFigures
    coverage: tuple[CoveragePoint, ...]
    area_under_risk_coverage: Estimate
    decision_curve: tuple[DecisionPoint, ...]
    confusion: tuple[tuple[int, ...], ...]
    robustness: Robustness | None = None
    explanation: ExplanationCheck | None = None
    efficiency: Efficiency | None = None
