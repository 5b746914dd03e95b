"""One way to preprocess, in a process of its own on one core; see `benchmarks.preprocess`.

    preprocess_worker.py WAY FOLDER IMAGES HEIGHTxWIDTH

All ways but DermaScan's cover the target at true aspect and crop its centre, averaging over areas
where their library can. The seconds are of processor time, so that others on the core do not
count.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Way = Callable[[bytes], Any]


def main() -> None:
    way, folder, amount, size = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    height, width = (int(side) for side in size.split("x"))
    work = WAYS[way](height, width)
    files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    work(files[0])
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        for data in islice(cycle(files), int(amount)):
            work(data)
        print(time.process_time() - started, flush=True)


def covering(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int]:
    """Return width and height that cover a target (height, width) at true aspect."""
    scale = max(want[0] / have[0], want[1] / have[1])
    return max(want[1], round(have[1] * scale)), max(want[0], round(have[0] * scale))


def cropped(image: Any, height: int, width: int) -> Any:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def resized(image: Any, height: int, width: int, averaged_below: float = 1.0) -> Any:
    target = covering(image.shape[:2], (height, width))
    shrinks = target[0] < image.shape[1] * averaged_below
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cropped(cv2.resize(image, target, interpolation=method), height, width)


def dermascan(height: int, width: int) -> Way:
    from dermascan.imaging import (  # noqa: PLC0415  # only in its own process
        ImageSize,
        Preprocessing,
        decode_for,
        prepare_decoded,
    )

    settings = Preprocessing(ImageSize(height, width))
    return lambda data: prepare_decoded(decode_for(data, settings), settings)


def opencv(height: int, width: int) -> Way:
    def work(data: bytes) -> Any:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        return resized(image, height, width)

    return work


def pillow(height: int, width: int) -> Way:
    from PIL import Image  # noqa: PLC0415  # only in its own process

    def work(data: bytes) -> Any:
        with Image.open(io.BytesIO(data)) as image:
            target = covering((image.height, image.width), (height, width))
            return cropped(np.asarray(image.resize(target, Image.Resampling.BOX)), height, width)

    return work


def tensorflow(height: int, width: int) -> Way:
    import tensorflow as tf  # noqa: PLC0415  # only in its own process

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def work(data: Any) -> Any:
        image = tf.io.decode_jpeg(data, channels=3)
        small = tf.image.resize(image, (height, width), method="area")
        return tf.cast(tf.round(small), tf.uint8)

    compiled: Way = tf.function(work, input_signature=[tf.TensorSpec([], tf.string)])
    return compiled


def turbo(height: int, width: int) -> Way:
    import simplejpeg  # type: ignore[import-not-found]  # noqa: PLC0415  # the peers' environment

    def work(data: bytes) -> Any:
        image = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=1)
        return resized(image, height, width, averaged_below=0.5)  # as fast as DermaScan's

    return work


WAYS = {
    "dermascan": dermascan,
    "opencv": opencv,
    "pillow": pillow,
    "tensorflow": tensorflow,
    "turbo": turbo,
}

if __name__ == "__main__":
    main()
