"""What folding normalisation and freezing kernels spare, in images a second on this machine.

    .venv/bin/python benchmarks/network_speed.py [HEIGHTxWIDTH]

EfficientNet-Lite0, at the default image size unless another is named, batches of 32 random images
already in memory; the variants take turns, so that whatever else the machine does meets all of
them.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import keras
import numpy as np

from dermascan.imaging import ImageSize, Preprocessing
from dermascan.learning.learner import TrainingConfig
from dermascan.learning.network import NetworkSpec, build_network, freeze_for_fine_tuning

BATCH, STEPS, ROUNDS = 32, 8, 5


@dataclass(frozen=True)
class Variant:
    """One way to build and fine-tune the network."""

    name: str
    spec: NetworkSpec = field(default_factory=NetworkSpec)
    first_block: int = 0
    depthwise: bool = True


FIRST_BLOCK = TrainingConfig().first_trained_block[0]
VARIANTS = (
    # Without initial weights normalisation is layers of its own; frozen, they do the same work.
    Variant("normalisation as layers", NetworkSpec(weights="none")),
    Variant("normalisation folded into the kernels"),
    Variant("likewise, depthwise kernels frozen", depthwise=False),
    Variant(
        f"likewise, stem and blocks before {FIRST_BLOCK} frozen too",
        first_block=FIRST_BLOCK,
        depthwise=False,
    ),
)


def main() -> None:
    size = ImageSize.parse(sys.argv[1]) if sys.argv[1:] else Preprocessing().image_size
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, size.height, size.width, 3)).astype(np.float32)
    labels = random.integers(0, 7, BATCH)
    networks = [compiled(variant, size) for variant in VARIANTS]
    training, scoring = [], []
    for _ in range(1 + ROUNDS):  # the first compiles, and does not count
        training.append([rate(partial(n.train_on_batch, images, labels)) for n in networks])
        scoring.append([rate(partial(n.predict_on_batch, images)) for n in networks])
    print("| | training, images/s | scoring, images/s |\n|---|---|---|")
    for index, variant in enumerate(VARIANTS):
        cells = [spread([row[index] for row in rows[1:]]) for rows in (training, scoring)]
        print(f"| {variant.name} | {' | '.join(cells)} |")


def compiled(variant: Variant, size: ImageSize) -> keras.Model:
    network = build_network(variant.spec, size)
    freeze_for_fine_tuning(network, variant.first_block, depthwise=variant.depthwise)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.AdamW(1e-4), loss, jit_compile=False)
    return network


def rate(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    return STEPS * BATCH / (time.perf_counter() - started)


def spread(rates: list[float]) -> str:
    return f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"


if __name__ == "__main__":
    main()
