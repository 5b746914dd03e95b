"""Where in an image a network sees a class, and whether these maps are worth looking at.

The networks end in a feature map, its average and one dense layer. For such a network Grad-CAM
(Selvaraju et al., ICCV 2017, section 3) equals, up to a positive factor, the class activation
map (Zhou et al., CVPR 2016): the feature map times the kernel of the dense layer. It needs no
gradient.

An activation is float32 (N, h, w, classes), before the ReLU, columns as `LESION_CLASSES`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dermascan.evaluation.schema import ExplanationCheck
from dermascan.evaluation.statistic import Floats, rounded
from dermascan.imaging import ImageSize
from dermascan.learning.network import NetworkSpec, build_network
from dermascan.learning.pretrained import InitialWeights

Activations = NDArray[np.float32]
# uint8 images (N, H, W, 3) RGB -> activations (N, h, w, classes).
Explain = Callable[[NDArray[np.uint8]], Activations]

# Ten draws of random weights for EfficientNet-Lite0 gave -0.09 to 0.13 beside maps of a trained
# one. Maps of other lesions gave 0.67: most lesions lie in the middle.
RANDOMISED_AT_MOST = 0.3
# Strided convolutions see a mirrored image on a shifted grid: 0.85 with the same network.
REPEATED_AT_LEAST = 0.6
# A mean says something if this share of the images defines it.
DEFINED_SHARE = 0.9
OPACITY = 0.6
_BATCH = 32


def heatmap(activation: Activations, class_index: int, size: ImageSize) -> Activations:
    """Show where one image speaks for a class.

    Args:
        activation: float32 (h, w, classes) of the image.
        class_index: position in `LESION_CLASSES`.
        size: of the image.

    Returns:
        float32 (H, W), 0..1; the highest is 1, or all is 0 if nothing speaks for the class.
    """
    positive = np.maximum(activation[..., class_index], 0).astype(np.float32)
    shape = (size.width, size.height)
    enlarged = np.maximum(cv2.resize(positive, shape, interpolation=cv2.INTER_CUBIC), 0)
    highest = enlarged.max()
    scaled: Activations = enlarged / highest if highest > 0 else enlarged
    return scaled


def overlay(image: NDArray[np.uint8], heat: Activations) -> NDArray[np.uint8]:
    """Lay a heat map over its image, the more opaque the hotter.

    Args:
        image: uint8 (H, W, 3) RGB.
        heat: float32 (H, W), 0..1, from `heatmap`.

    Returns:
        uint8 (H, W, 3) RGB, where 0 the image itself. Colours are viridis, whose lightness
        grows evenly.
    """
    layer = heat_layer(heat)
    opacity = OPACITY * heat[..., np.newaxis]
    mixed = (1 - opacity) * image + opacity * layer[..., :3]
    return np.rint(mixed).astype(np.uint8)


def heat_layer(heat: Activations) -> NDArray[np.uint8]:
    """Draw a heat map to be laid over its image by somebody else.

    Args:
        heat: float32 (H, W), 0..1, from `heatmap`.

    Returns:
        uint8 (H, W, 4) RGBA, the more opaque the hotter, where 0 transparent; over the image it
        looks as `overlay`.
    """
    levels = np.rint(255 * heat).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    opacity = np.rint(255 * OPACITY * heat).astype(np.uint8)
    layer: NDArray[np.uint8] = np.dstack((colours, opacity))
    return layer


def overlays(
    explain: Explain, images: NDArray[np.uint8], classes: Iterable[int]
) -> Iterator[NDArray[np.uint8]]:
    """Yield images under the heat maps of one class each.

    Args:
        explain: `Scorer.explain`.
        images: uint8 (N, H, W, 3) RGB, prepared for the model.
        classes: N positions in `LESION_CLASSES`.

    Raises:
        InputError: the model cannot explain.
    """
    size = ImageSize(*images.shape[1:3])
    for image, activation, index in zip(images, explain(images), classes, strict=True):
        yield overlay(image, heatmap(activation, index, size))


def check_explanations(
    trained: Explain, randomised: Explain, images: NDArray[np.uint8]
) -> ExplanationCheck:
    """Check that maps depend on what was learned, and follow the image.

    Compared are the maps of the class that speaks loudest in each image, by the rank
    correlation of their absolute values. A map that random weights leave as it was shows edges,
    not reasons. A map that does not turn with a mirrored image shows the network's grid.

    Args:
        trained: `Scorer.explain`.
        randomised: the same for untrained weights, see `randomised_activation`.
        images: uint8 (N, H, W, 3) RGB, some dozens.

    Returns:
        The check. `passed` if `similarity_randomised` is within `RANDOMISED_AT_MOST` of 0 and
        `similarity_repeated` at least `REPEATED_AT_LEAST`. A map that is the same everywhere has
        no correlation; a mean is None where fewer than nine in ten images have one.

    Source:
        Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
    """
    if not len(images):
        return ExplanationCheck(
            images=0, similarity_randomised=None, similarity_repeated=None, passed=None
        )
    activations = trained(images)
    loudest = activations.mean(axis=(1, 2)).argmax(axis=-1)
    maps = _flat_maps(activations, loudest)
    mirrored = trained(images[:, :, ::-1])[:, :, ::-1]
    by_chance = _similarity(maps, _flat_maps(randomised(images), loudest))
    repeated = _similarity(maps, _flat_maps(mirrored, loudest))
    return ExplanationCheck(
        images=len(images),
        similarity_randomised=by_chance,
        similarity_repeated=repeated,
        passed=_passed(by_chance, repeated),
    )


def _passed(by_chance: float | None, repeated: float | None) -> bool | None:
    if by_chance is None or repeated is None:
        return None
    return abs(by_chance) <= RANDOMISED_AT_MOST and repeated >= REPEATED_AT_LEAST


def _flat_maps(activations: Activations, classes: NDArray[np.intp]) -> Floats:
    """Return absolute values (N, h * w) of one class of each image."""
    chosen = np.take_along_axis(activations, classes[:, None, None, None], axis=-1)
    return np.abs(chosen.reshape(len(activations), -1)).astype(np.float64)


def _similarity(maps: Floats, others: Floats) -> float | None:
    """Average Spearman's rank correlation of the rows of two arrays (N, values)."""
    one, other = _centred_ranks(maps), _centred_ranks(others)
    spread = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    defined = spread > 0
    if defined.mean() < DEFINED_SHARE:
        return None
    correlations = (one * other).sum(axis=1)[defined] / spread[defined]
    return rounded(float(correlations.mean()))


def _centred_ranks(values: Floats) -> Floats:
    ranks = pd.DataFrame(values).rank(axis=1).to_numpy(dtype=float)
    centred: Floats = ranks - (values.shape[1] + 1) / 2
    return centred


def randomised_activation(
    network: Mapping[str, Any], image_size: ImageSize, seed: int = 0
) -> Explain:
    """Build a network anew, with random weights, to compare a trained one with.

    Kernels are drawn so that activations keep their size through a ReLU network of any depth;
    with Keras's default they fade to 1e-12 in EfficientNet-Lite0.

    Args:
        network: `ModelMetadata.network`; its initial weights are not loaded.
        image_size: height and width in pixels of the images.
        seed: of the weights; Keras's own random state is left alone.

    Returns:
        From uint8 images (N, H, W, 3) to activations (N, h, w, 7).

    Source:
        He et al., Delving Deep into Rectifiers, ICCV 2015.
    """
    import keras  # noqa: PLC0415  # TensorFlow takes 10 s to import

    spec = replace(NetworkSpec(**network), weights=InitialWeights.NONE)
    model = build_network(spec, image_size)
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(_he_normal(tuple(variable.shape), random))
    features = keras.Model(model.input, model.get_layer("embedding").input)
    kernel = model.get_layer("logits").kernel.numpy()

    def explain(images: NDArray[np.uint8]) -> Activations:
        maps = features.predict(images.astype(np.float32), batch_size=_BATCH, verbose=0)
        activations: Activations = maps @ kernel
        return activations

    return explain


def _he_normal(shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    """Draw a kernel; the last axis is the output's, or 1 if depthwise, where it adds nothing up."""
    inputs = math.prod(shape[:-1] if shape[-1] > 1 else shape[:-2])
    kernel: Floats = random.standard_normal(shape) * math.sqrt(2 / inputs)
    return kernel
