"""What an exported model offers: the names of its signatures, and the meaning of each array."""

from dermascan.model.metadata import ArrayDescription, ModelMetadata, SignatureDescription

FLOAT_SIGNATURE = "serving_default"
UINT8_SIGNATURE = "serve_uint8"
EXPLAIN_SIGNATURE = "explain"

Shape = tuple[int | None, ...]


def input_shape(metadata: ModelMetadata) -> Shape:
    """Return the shape of `images`, of any height and width if the graph can prepare them.

    It cannot where the preprocessing corrects colours or removes hairs.
    """
    preprocessing = metadata.preprocessing
    if preprocessing.hair_removal or preprocessing.colour_constancy:
        return (None, preprocessing.image_size.height, preprocessing.image_size.width, 3)
    return (None, None, None, 3)


def describe_signatures(
    metadata: ModelMetadata, embedding: Shape, activation: Shape
) -> dict[str, SignatureDescription]:
    """Describe the signatures of an exported model.

    Args:
        metadata: of the model.
        embedding: shape of that output.
        activation: shape of that output.
    """
    scored = {
        "probabilities": _probabilities(metadata),
        "p_malignant": _P_MALIGNANT,
        "embedding": _embedding(embedding),
    }
    explained = {"activation": _activation(metadata, activation)}
    return {
        name: SignatureDescription(inputs={"images": _images(metadata, dtype)}, outputs=outputs)
        for name, dtype, outputs in (
            (FLOAT_SIGNATURE, "float32", scored),
            (UINT8_SIGNATURE, "uint8", scored),
            (EXPLAIN_SIGNATURE, "uint8", explained),
        )
    }


_P_MALIGNANT = ArrayDescription(
    shape=(None,),
    dtype="float32",
    meaning="probability of malignancy, fitted on validation images: the sum of `probabilities` "
    "over `malignant_classes`; malignant from `threshold` on",
    axes=("N",),
    value_range=(0, 1),
)


def _images(metadata: ModelMetadata, dtype: str) -> ArrayDescription:
    shape, size = input_shape(metadata), metadata.preprocessing.image_size
    meaning = f"dermoscopic images, made {size.height} x {size.width} by `preprocessing`"
    if shape[1] is None:
        meaning += (
            "; of another size, they are turned so that the long side lies along the network's, "
            "scaled at true aspect to cover it (shrunk by averaging areas, enlarged bilinearly), "
            "rounded and cropped to the centre: within one level of what `preprocessing` makes"
        )
    return ArrayDescription(
        shape=shape,
        dtype=dtype,
        meaning=meaning,
        axes=("N", "height", "width", "channel"),
        value_range=(0, 255),
        channels=("red", "green", "blue"),
    )


def _probabilities(metadata: ModelMetadata) -> ArrayDescription:
    return ArrayDescription(
        shape=(None, len(metadata.classes)),
        dtype="float32",
        meaning="a score for each class; rows add up to 1. Only the sum over "
        "`malignant_classes`, which is p_malignant, was fitted to be read as a probability: how "
        "the malignant and the benign share are divided among their classes depends on the "
        "weights of the classes in training and on `class_offsets`, which may favour rarer ones",
        axes=("N", "class"),
        value_range=(0, 1),
        channels=metadata.classes,
    )


def _embedding(shape: Shape) -> ArrayDescription:
    return ArrayDescription(
        shape=shape,
        dtype="float32",
        meaning="features before the classifier, averaged over views, for search and for drift; "
        "the columns of one network after those of the other",
        axes=("N", "feature"),
    )


def _activation(metadata: ModelMetadata, shape: Shape) -> ArrayDescription:
    return ArrayDescription(
        shape=shape,
        dtype="float32",
        meaning="evidence for each class at each place of the image as it is, before "
        "calibration: class activation maps, which are Grad-CAM's up to a factor; their mean "
        "over all places is the logit without its bias",
        axes=("N", "height", "width", "class"),
        channels=metadata.classes,
    )
