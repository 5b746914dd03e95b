"""A convolution with its batch normalisation folded in; import it where Keras is wanted anyway."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("dermascan")
class ScaledConvolution(keras.layers.Layer):  # type: ignore[misc]  # Keras ships no types
    """A convolution whose kernel is multiplied by a fixed factor for each output channel.

    This is a convolution followed by batch normalisation in inference mode: the same output, and
    the same gradient of the kernel. The factor is applied to the kernel in place of the images,
    which spares training and serving several passes over the largest arrays there are.

    Args:
        channels: of the output; None for a depthwise convolution, which keeps their number.
        kernel_size: height and width of the kernel.
        stride: in both directions.
        settings: of any Keras layer, such as `name`.
    """

    def __init__(
        self, channels: int | None, kernel_size: int, stride: int = 1, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._channels, self._kernel_size, self._stride = channels, kernel_size, stride

    @property
    def is_depthwise(self) -> bool:
        """Tell whether each channel has a kernel of its own."""
        return self._channels is None

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make `kernel` (as Keras lays it out), `scale` and `bias`; only the first is trained."""
        channels_in = input_shape[-1]
        channels = self._channels or channels_in
        last = 1 if self.is_depthwise else channels
        side = self._kernel_size
        self.kernel = self.add_weight((side, side, channels_in, last), name="kernel")
        factors = (channels, 1) if self.is_depthwise else (channels,)
        self.scale = self.add_weight(factors, "ones", name="scale", trainable=False)
        self.bias = self.add_weight((channels,), "zeros", name="bias", trainable=False)

    def call(self, inputs: "keras.KerasTensor") -> "keras.KerasTensor":
        """Return the convolution (N, H / stride, W / stride, channels) of (N, H, W, channels)."""
        convolve = ops.depthwise_conv if self.is_depthwise else ops.conv
        return convolve(inputs, self.kernel * self.scale, self._stride, "same") + self.bias

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the shape of the output for one of the input."""
        batch, height, width, channels_in = input_shape
        rows, columns = (
            None if side is None else -(-side // self._stride) for side in (height, width)
        )
        return batch, rows, columns, self._channels or channels_in

    def get_config(self) -> dict[str, object]:
        """Return the arguments of `__init__`."""
        settings = {
            "channels": self._channels,
            "kernel_size": self._kernel_size,
            "stride": self._stride,
        }
        return {**super().get_config(), **settings}

    def fold(self, kernel: object, norm: Sequence[object], epsilon: float) -> None:
        """Take over a convolution and the batch normalisation after it.

        Args:
            kernel: of the convolution.
            norm: gamma, beta, moving mean and moving variance, (channels,) each.
            epsilon: of the normalisation.
        """
        gamma, beta, mean, variance = (ops.convert_to_tensor(value) for value in norm)
        scale = gamma / ops.sqrt(variance + epsilon)
        self.kernel.assign(kernel)
        self.scale.assign(ops.reshape(scale, self.scale.shape))
        self.bias.assign(beta - mean * scale)
