"""What networks say together: logits and embeddings averaged over networks and over views.

Backend-neutral Keras. An exported model computes exactly this before its calibration, so a
calibration must be fitted on the logits that come from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from dermascan.errors import InputError

if TYPE_CHECKING:
    import keras

_MIRRORINGS = 4  # as it is, left to right, top to bottom, both


class TestTimeViews(BaseModel):
    """How often and how each image is looked at; every zoom is seen in every mirroring.

    Attributes:
        mirrors: look also at the image mirrored left to right, top to bottom, and both ways.
        zooms: shares of height and width, 0.25..1, of the centre that is cut out and brought
            to the network's size (bilinear); 1 is the whole image.
    """

    __test__: ClassVar[bool] = False  # pytest collects classes whose names begin with Test
    model_config = ConfigDict(frozen=True, extra="forbid")

    mirrors: bool = False
    zooms: tuple[Annotated[float, Field(ge=0.25, le=1)], ...] = (1.0,)

    @field_validator("zooms")
    @classmethod
    def _some_and_no_two_alike(cls, zooms: tuple[float, ...]) -> tuple[float, ...]:
        if not zooms or len(set(zooms)) != len(zooms):
            raise ValueError(f"zooms {zooms} must be at least one, and no two alike")
        return zooms

    @property
    def count(self) -> int:
        """Return how many times each image goes through each network."""
        return len(self.zooms) * (_MIRRORINGS if self.mirrors else 1)


@dataclass(frozen=True)
class _Averages:
    """Symbolic outputs: `logits` float32 (N, 7), `embedding` float32 (N, D)."""

    images: "keras.KerasTensor"
    logits: "keras.KerasTensor"
    embedding: "keras.KerasTensor"


def averaged_logits(networks: "Sequence[keras.Model]", views: TestTimeViews) -> "keras.Model":
    """Join networks into one model that averages their logits over networks and views.

    All views of a batch go through a network together, so N images cost as much as
    N * `views.count`. Weights are shared with the networks, not copied.

    Args:
        networks: from `dermascan.learning.network.build_network`, one or more, of one image size.
        views: of each image.

    Returns:
        A model from (N, H, W, 3) RGB, 0..255, to float32 logits (N, 7).

    Raises:
        InputError: no network, or networks of different image sizes.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    averages = _averages(networks, views)
    return keras.Model(averages.images, averages.logits)


def averaged_outputs(networks: "Sequence[keras.Model]", views: TestTimeViews) -> "keras.Model":
    """Do as `averaged_logits`, and give embeddings too.

    Args:
        networks: as for `averaged_logits`.
        views: of each image.

    Returns:
        A model from (N, H, W, 3) RGB, 0..255, to a mapping: `logits` float32 (N, 7);
        `embedding` float32 (N, D), each network's mean over views, one network's columns after
        the other's.

    Raises:
        InputError: no network, or networks of different image sizes.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    averages = _averages(networks, views)
    outputs = {"logits": averages.logits, "embedding": averages.embedding}
    return keras.Model(averages.images, outputs)


def activation_model(networks: "Sequence[keras.Model]") -> "keras.Model":
    """Make the model that shows where in an image the evidence for each class lies.

    The class activation map: the last feature map times the classifier's kernel, the mean over
    networks, for which coarser maps are enlarged to the finest (bilinear; where the sizes are no
    whole multiples, that changes means a little). As the classifier sits on a global average, the
    mean of a map over all positions is the class's logit without its bias, and the map is
    Grad-CAM's up to a factor, before that clips negative values.

    Args:
        networks: from `dermascan.learning.network.build_network`, one or more, of one image size.

    Returns:
        A model from (N, H, W, 3) RGB, 0..255, to float32 (N, h, w, 7), of the image as it is.

    Raises:
        InputError: no network, or networks of different image sizes.

    Source:
        Zhou et al., Learning deep features for discriminative localization, CVPR 2016;
        Selvaraju et al., Grad-CAM, ICCV 2017, section 3.1.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    images = keras.Input((*image_size_of(networks), 3), name="images")
    maps = []
    for index, network in enumerate(networks):
        features = network.get_layer("embedding").input
        member = keras.Model(network.input, features, name=f"features_{index}")
        evidence = keras.ops.cast(member(images), "float32")
        maps.append(keras.ops.matmul(evidence, network.get_layer("logits").kernel))
    finest = max(tuple(each.shape[1:3]) for each in maps)
    return keras.Model(images, _mean([_enlarged(each, finest) for each in maps]))


def _enlarged(maps: "keras.KerasTensor", size: tuple[int, int]) -> "keras.KerasTensor":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    if maps.shape[1:3] == size:
        return maps
    return keras.ops.image.resize(maps, size, "bilinear", data_format="channels_last")


def image_size_of(networks: "Sequence[keras.Model]") -> tuple[int, int]:
    """Return height and width in pixels that all the networks take.

    Raises:
        InputError: no network, or networks of different image sizes.
    """
    sizes = {tuple(network.input.shape[1:3]) for network in networks}
    if len(sizes) != 1:
        found = f"they take {sorted(sizes)}" if sizes else "there is none"
        raise InputError(f"networks that score together must take one image size, but {found}")
    height, width = sizes.pop()
    return int(height), int(width)


def _averages(networks: "Sequence[keras.Model]", views: TestTimeViews) -> _Averages:
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    size = image_size_of(networks)
    images = keras.Input((*size, 3), name="images")
    seen = _all_views(images, views, size)
    logits, embeddings = [], []
    for index, network in enumerate(networks):
        outputs = (network.output, network.get_layer("embedding").output)
        member = keras.Model(network.input, outputs, name=f"network_{index}")
        member_logits, member_embedding = member(seen)
        logits.append(_mean_of_views(member_logits, views))
        embeddings.append(_mean_of_views(member_embedding, views))
    embedding = keras.ops.concatenate(embeddings, axis=-1) if embeddings[1:] else embeddings[0]
    return _Averages(images, _mean(logits), embedding)


def _mean(values: "list[keras.KerasTensor]") -> "keras.KerasTensor":
    return sum(values[1:], start=values[0]) / len(values) if values[1:] else values[0]


def _all_views(
    images: "keras.KerasTensor", views: TestTimeViews, size: tuple[int, int]
) -> "keras.KerasTensor":
    """Put the views of a batch one after the other: (count * N, H, W, 3)."""
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    seen = [_zoomed(images, zoom, size) for zoom in views.zooms]
    if views.mirrors:
        seen = [mirrored for each in seen for mirrored in _mirrored(each)]
    return keras.ops.concatenate(seen, axis=0) if seen[1:] else seen[0]


def _zoomed(images: "keras.KerasTensor", zoom: float, size: tuple[int, int]) -> "keras.KerasTensor":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    if zoom == 1:
        return images
    height, width = (round(length * zoom) for length in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    centre = images[:, top : top + height, left : left + width]
    return keras.ops.image.resize(centre, size, "bilinear", data_format="channels_last")


def _mirrored(images: "keras.KerasTensor") -> "list[keras.KerasTensor]":
    """Return the four mirrorings; as slices, for which ONNX Runtime need not transpose images."""
    across = images[:, :, ::-1]
    return [images, across, images[:, ::-1], across[:, ::-1]]


def _mean_of_views(values: "keras.KerasTensor", views: TestTimeViews) -> "keras.KerasTensor":
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    values = keras.ops.cast(values, "float32")
    if views.count == 1:
        return values
    by_view = keras.ops.reshape(values, (views.count, -1, values.shape[-1]))
    return keras.ops.mean(by_view, axis=0)
