"""Time the 15 corruptions on 10,000 images, with and without compilation, against scikit-image where it has them.

    python benchmarks/corruptions.py

The images are generated digits. scikit-image (`pip install -e '.[test]'`) rotates and finds edges one image at a time.
"""

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np

from kdib.tasks.images import digits
from kdib.tasks.images.corruptions import CORRUPTIONS, corrupt

KEY = jax.random.key(0)


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    n_images = parser.parse_args().images
    images = digits.digits(0, n_images)[0]
    print(f"jax {jax.__version__}, {n_images} images; seconds: first call, second call")
    first, second = 0.0, 0.0
    for name in CORRUPTIONS:
        times = [seconds(lambda name=name: jax.block_until_ready(corrupt(name, KEY, images))) for _ in range(2)]
        first, second = first + times[0], second + times[1]
        beside = f"; scikit-image {PEERS[name](images):.2f}" if name in PEERS else ""
        print(f"{name}: {times[0]:.2f}, {times[1]:.2f}{beside}", flush=True)
    print(f"all {len(CORRUPTIONS)}: {first:.1f}, {second:.1f}")


def seconds(run: Callable[[], object]) -> float:
    """Return the wall-clock time of a call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def rotated(images: np.ndarray) -> float:
    """Time the rotation of each image by .4 radians in scikit-image."""
    from skimage.transform import rotate

    return seconds(lambda: [rotate(image[..., 0], np.degrees(0.4), order=1) for image in images])


def edges(images: np.ndarray) -> float:
    """Time Canny's edges of each image in scikit-image."""
    from skimage.feature import canny

    return seconds(lambda: [canny(image[..., 0] / 255) for image in images])


PEERS = {"rotate": rotated, "canny_edges": edges}

if __name__ == "__main__":
    main()
