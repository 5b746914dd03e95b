"""What a model card says (structure: Mitchell et al., Model Cards for Model Reporting, 2019)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dermascan import __version__
from dermascan.evaluation import Evaluation
from dermascan.model.metadata import ModelMetadata
from dermascan.model_card import quantities, wording
from dermascan.model_card.document import Block, Bullets, Card, Facts, Paragraph, Section, Table
from dermascan.model_card.guidelines import Guideline, Item, ReportingItems
from dermascan.reporting.page import share
from dermascan.reporting.words import group_title
from dermascan.taxonomy import CLASS_NAMES, LESION_CLASSES

_SPLITS = {"train": "Training", "val": "Validation", "test": "Test"}


@dataclass(frozen=True)
class CardContext:
    """What neither the model's metadata nor its evaluation says.

    Attributes:
        model: the model's name.
        version: of the model, empty as long as it is not published.
        dataset: name of the dataset.
        counts: images by split (`train`, `val`, `test`) and lesion class.
        set_aside: images that would have tied two splits together.
        left_out: images without a lesion class, or not dermoscopic.
        image_credit: whose the images are and under which licence.
        training: pairs of name and value, such as epochs, seeds and minutes.
        data_citations: of the publications that the data's authors ask to be cited.
        contact: whom to ask, empty if nobody is named.
    """

    model: str
    dataset: str
    version: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    set_aside: int = 0
    left_out: int = 0
    image_credit: str = ""
    training: tuple[tuple[str, str], ...] = ()
    data_citations: tuple[str, ...] = ()
    contact: str = ""


@dataclass(frozen=True)
class _Source:
    """All that a section is written from."""

    metadata: ModelMetadata
    evaluation: Evaluation
    context: CardContext


def model_card(
    metadata: ModelMetadata,
    evaluation: Evaluation,
    context: CardContext,
    items: ReportingItems,
) -> Card:
    """Write the card of a model.

    Args:
        metadata: what the exported model says of itself.
        evaluation: on the held-out test images.
        context: what neither of the two says.
        items: from `load_reporting_items`.

    Returns:
        The card, for `card_html` and `card_markdown`.
    """
    source = _Source(metadata, evaluation, context)
    name = f"{context.model} {context.version}".strip()
    sections = (
        *_about(source),
        *_data(source),
        *_analyses(source),
        *_judgement(source),
        *_rights(source),
    )
    titles = {section.anchor: section.title for section in sections}
    return Card(
        title=f"Model card: {name}",
        subtitle="A classifier of dermoscopic images: seven lesion classes, malignant or benign.",
        sections=(*sections, *_guidelines(items, titles)),
    )


def _about(source: _Source) -> Iterator[Section]:
    yield Section("details", "Model details", (_details(source),))
    yield Section("versions", "Software", (Facts(_pairs(source.metadata.versions)),), is_part=True)
    yield Section("interface", "Inputs and outputs", _interface(source.metadata), is_part=True)
    intended = Paragraph(source.metadata.intended_use)
    yield Section("intended-use", "Intended use", (intended, Bullets(wording.INTENDED)))
    yield Section("out-of-scope", "Out of scope", (Bullets(wording.OUT_OF_SCOPE),), is_part=True)
    yield Section(
        "factors", "Factors", (Paragraph(_factors(source.evaluation)), Bullets(wording.FACTORS))
    )
    yield Section("metrics", "Metrics", (Paragraph(_threshold(source)), Bullets(wording.METRICS)))


def _data(source: _Source) -> Iterator[Section]:
    evaluation, context = source.evaluation, source.context
    yield Section(
        "evaluation-data",
        "Evaluation data",
        (
            Paragraph(
                f"{evaluation.images:,} images of {evaluation.lesions:,} lesions of "
                f"{context.dataset}, {evaluation.malignant.images:,} of them malignant "
                f"({share(evaluation.malignant.prevalence)}). Test set {evaluation.test_set}."
            ),
            Paragraph(wording.SPLIT),
            *quantities.group_shares(evaluation, "sex"),
            *quantities.group_shares(evaluation, "age"),
            *quantities.group_shares(evaluation, "site"),
        ),
    )
    yield Section("training-data", "Training data", tuple(_training_data(source)))


def _analyses(source: _Source) -> Iterator[Section]:
    evaluation = source.evaluation
    yield Section("results", "Quantitative analyses", quantities.headline(evaluation))
    for anchor, title, blocks in (
        ("operating-points", "Operating points", quantities.operating_points(evaluation)),
        ("classes", "By class", quantities.classes(evaluation)),
        ("slices", "By slice", quantities.slices(evaluation)),
        ("calibration", "Calibration", quantities.calibration(evaluation)),
        ("robustness", "Robustness", quantities.robustness(evaluation)),
        ("explanation", "Explanations", quantities.explanation(evaluation)),
        ("efficiency", "Size and speed", quantities.efficiency(evaluation)),
    ):
        yield Section(anchor, title, blocks, is_part=True)


def _judgement(source: _Source) -> Iterator[Section]:
    evaluation = source.evaluation
    yield Section("ethics", "Ethical considerations", (Bullets(wording.ETHICS),))
    yield Section("skin-tone", "Skin tone", _skin_tone(evaluation), is_part=True)
    yield Section(
        "confirmation", "How sure the labels are", _confirmation(evaluation), is_part=True
    )
    yield Section(
        "shortcuts", "Shortcuts in the images", (Paragraph(wording.SHORTCUTS),), is_part=True
    )
    yield Section("limits", "Caveats and recommendations", (Bullets(wording.LIMITS),))


def _rights(source: _Source) -> Iterator[Section]:
    context = source.context
    credit = (("Images", context.image_credit),) if context.image_credit else ()
    licences = Facts(
        (("Weights", source.metadata.licence), *_pairs(source.metadata.licences), *credit)
    )
    yield Section("licence", "Licences", (licences, Paragraph(wording.LICENCE)))
    citations = (*context.data_citations, *wording.REFERENCES)
    own = Paragraph(
        f"Cite the model by its name, version and training fingerprint "
        f"({source.metadata.training_fingerprint}), made with DermaScan {__version__}, "
        "and the publications of the data's authors."
    )
    yield Section("citation", "Citation", (own, Bullets(citations)))


def _details(source: _Source) -> Facts:
    metadata, context = source.metadata, source.context
    return Facts(
        (
            ("Model", context.model),
            ("Version", context.version or "not published yet"),
            ("What it does", metadata.description),
            ("Networks averaged", str(metadata.networks)),
            *((f"Network: {name}", value) for name, value in _pairs(metadata.network)),
            ("Initial weights", metadata.initial_weights),
            ("Views of each image, averaged", _plain(metadata.views.model_dump())),
            ("Calibration", _plain(metadata.calibration.model_dump())),
            ("Classes", ", ".join(metadata.classes)),
            ("Counted as malignant", ", ".join(metadata.malignant_classes)),
            ("Threshold of p_malignant", f"{metadata.threshold:.3f}, {metadata.threshold_choice}"),
            ("Training run", metadata.training_fingerprint),
            *context.training,
            ("Questions to", context.contact or "to be filled in by those who publish the model"),
        )
    )


def _interface(metadata: ModelMetadata) -> tuple[Block, ...]:
    """Return shapes, types and meanings of what goes in and comes out."""
    rows = tuple(
        (
            f"{signature}: {name}",
            " x ".join("any" if length is None else str(length) for length in array.shape),
            array.dtype,
            array.meaning,
        )
        for signature, described in metadata.signatures.items()
        for arrays in (described.inputs, described.outputs)
        for name, array in arrays.items()
    )
    encoded = Paragraph(f"Encoded image files as input: {metadata.encoded_bytes}.")
    if not rows:
        return (Paragraph("Not recorded."), encoded)
    return (Table("Inputs and outputs", ("Name", "Shape", "Type", "Meaning"), rows), encoded)


def _threshold(source: _Source) -> str:
    malignant = ", ".join(source.metadata.malignant_classes)
    return (
        f"p_malignant is the probability of one of {malignant}. An image is called malignant "
        f"from {source.evaluation.threshold:.3f} on."
    )


def _factors(evaluation: Evaluation) -> str:
    names = [group_title(group.name) for group in evaluation.slices if group.slices]
    if not names:
        return "The test images carry no metadata by which performance could be told apart."
    return f"Performance is reported by: {'; '.join(names)}."


def _training_data(source: _Source) -> Iterator[Block]:
    metadata, context = source.metadata, source.context
    yield Facts(
        (
            ("Dataset", context.dataset),
            ("Fingerprint", metadata.dataset_fingerprint),
            ("Set aside, since they would have tied two splits together", f"{context.set_aside:,}"),
            ("Left out: no class of the seven, or not dermoscopic", f"{context.left_out:,}"),
        )
    )
    counts = context.counts or ({"train": metadata.class_counts} if metadata.class_counts else {})
    if counts:
        yield _counts_table(counts)
    yield Paragraph("How bytes become pixels:")
    yield Facts(_pairs(metadata.preprocessing.as_plain()))


def _counts_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    splits = [*(split for split in _SPLITS if split in counts), *sorted(set(counts) - set(_SPLITS))]
    rows = [
        (f"{name} ({CLASS_NAMES[name]})", *(f"{counts[s].get(name, 0):,}" for s in splits))
        for name in LESION_CLASSES
    ]
    rows.append(("All", *(f"{sum(counts[split].values()):,}" for split in splits)))
    head = ("Class", *(_SPLITS.get(split, split) for split in splits))
    return Table("Images by split and class", head, tuple(rows))


def _skin_tone(evaluation: Evaluation) -> tuple[Block, ...]:
    table = quantities.group_shares(evaluation, "skin_tone")
    text = (
        "Of the test images the skin tone is neither recorded nor estimated: nothing is known "
        "about performance on dark skin."
        if not table
        else "Bands marked as estimated come from the colour of the skin around the lesion (ITA), "
        "which lighting and camera change: they order images by lightness and name nobody's skin "
        "type. A band with few images says little; one that is missing says nothing."
    )
    return (Paragraph(text), *table)


def _confirmation(evaluation: Evaluation) -> tuple[Block, ...]:
    table = quantities.group_shares(evaluation, "confirmation")
    text = (
        "It is not recorded how the diagnoses of the test images were confirmed."
        if not table
        else "Labels are not equally sure. Lesions that looked harmless are seldom excised, so a "
        "benign label without histopathology rests on follow-up or opinion; where malignant "
        "lesions are all confirmed by histopathology and benign ones are not, the comparison is "
        "easier than in a clinic."
    )
    return (Paragraph(text), *table)


def _guidelines(items: ReportingItems, titles: Mapping[str, str]) -> Iterator[Section]:
    yield Section("reporting", "Reporting guidelines", (Paragraph(wording.REPORTING),))
    for guideline in items.guidelines:
        anchor = "items-" + "".join(c for c in guideline.name.lower() if c.isalnum())
        title = f"{guideline.name}: {guideline.title}"
        yield Section(anchor, title, _guideline(guideline, titles), is_part=True)


def _guideline(guideline: Guideline, titles: Mapping[str, str]) -> tuple[Block, ...]:
    rows = tuple(
        (each.number, each.topic, _answer(each, titles), each.note) for each in guideline.items
    )
    count = sum(each.status == "answered" for each in guideline.items)
    text = (
        f"{guideline.source} Of {len(guideline.items)} rows, {count} are answered here in full. "
        "Topics are paraphrased: read them beside the guideline."
    )
    head = ("Item", "Topic", "Answered in", "What is left")
    return (Paragraph(text), Table(guideline.name, head, rows))


def _answer(item: Item, titles: Mapping[str, str]) -> str:
    if item.status == "authors":
        return "to be filled in by the authors"
    if item.status == "not applicable":
        return "not applicable"
    places = "; ".join(_place(place, titles) for place in item.where)
    return f"partly in {places}" if item.status == "partly" else places


def _place(place: str, titles: Mapping[str, str]) -> str:
    document, anchor = place.split(".")
    if document == "card" and anchor in titles:
        return f"“{titles[anchor]}”"
    return f"report: {anchor.replace('-', ' ')}"


def _pairs(value: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name).replace("_", " "), _plain(each)) for name, each in value.items())


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text}" for name, text in _pairs(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(each) for each in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
