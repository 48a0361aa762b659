# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
How well a SAM outlines a defect that is shown to it with one point.

    python recipes/clipsam_small/probe_sam.py runs/small/sam --materials materials --data_dir cookie --data_dir road

Asked for is every connected part of the true masks, with the point that lies deepest in it. Of the three masks the
one that fits best is said, and the one that SAM itself says is best; both as the mean IoU over the parts.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from small_sam import SETTINGS, SamScenes
from small_umci import sam_processor
from transformers import SamModel

from clipsam_hf.data import AnomalyFolder
from clipsam_hf.refinement_clipsam import resample_masks
from clipsam_hf.regions_clipsam import Frame


__all__ = ["find_parts", "main", "measure"]

HELD_OUT = 50_000_000
"""Number of the scene before those to be measured on: training never comes so far."""
LEAST_SHARE = 1e-4
"""Share of an image that a part has at least."""
MOST_PARTS = 5


def find_parts(mask: np.ndarray) -> list[tuple[np.ndarray, tuple[float, float]]]:
    """Return the largest connected parts of a bool mask, each with its deepest point (XY, pixel centre)."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    parts = []
    for label in np.argsort(-areas, kind="stable")[:MOST_PARTS] + 1:
        if areas[label - 1] < LEAST_SHARE * mask.size:
            break
        part = labels == label
        row, column = np.unravel_index(
            ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1].argmax(), mask.shape
        )
        parts.append((part, (float(column) + 0.5, float(row) + 0.5)))
    return parts


@torch.no_grad()
def measure(sam: SamModel, images: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, int]:
    """
    Ask for every part.

    Args:
        sam: The network.
        images: Pairs of (height, width, 3) uint8 and (height, width) bool.

    Returns:
        Mean IoU of the fittest of the masks, of the one said to be the best, and the number of parts.
    """
    vision: Any = sam.config.vision_config
    side = vision.image_size
    processor = sam_processor(side)
    fittest, chosen = [], []
    for image, mask in images:
        inputs = processor(Image.fromarray(image), return_tensors="pt")
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        frame = Frame((height, width), side)
        embeddings = sam.get_image_embeddings(inputs["pixel_values"])
        for part, point in find_parts(mask):
            scale = np.array(frame.content[::-1]) / part.shape[::-1]
            # SAM itself adds half a pixel
            points = torch.from_numpy(np.array(point) * scale - 0.5).float().view(1, 1, 1, 2)
            answer = sam(image_embeddings=embeddings, input_points=points, multimask_output=True)
            masks = resample_masks(answer.pred_masks[0, 0], frame, part.shape).numpy() > 0
            overlaps = (masks & part).sum((1, 2)) / (masks | part).sum((1, 2))
            fittest.append(overlaps.max())
            chosen.append(overlaps[int(answer.iou_scores[0, 0].argmax())])
    return float(np.mean(fittest)), float(np.mean(chosen)), len(fittest)


def generated(scenes: SamScenes, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield scenes that no step of training saw."""
    for number in range(HELD_OUT, HELD_OUT + count):
        images, labels, _ = scenes.draw(number, 1)
        image = (images[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
        yield image.numpy(), labels[0, 0].numpy() > 0


def photographs(root: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the defective photographs of a data set."""
    for sample in AnomalyFolder(root, split=None):
        if sample.label == 1:
            yield np.asarray(sample.load_image().convert("RGB")), np.asarray(sample.load_mask()).astype(bool)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sam", type=Path, help="folder of the stage `sam`, or of another SamModel")
    parser.add_argument("--materials", type=Path, help="folder of photographs of surfaces, for generated scenes")
    parser.add_argument("--data_dir", type=Path, action="append", default=[], help="a data set; may be repeated")
    parser.add_argument("--num_scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    """Print a line for the scenes and for each set."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    sam = SamModel.from_pretrained(arguments.sam).eval()
    sets = {root.name: photographs(root) for root in arguments.data_dir}
    if arguments.materials is not None:
        scenes = SamScenes(arguments.materials, seed=arguments.seed, size=SETTINGS.image_size)
        sets["generated"] = generated(scenes, arguments.num_scenes)
    for name, images in sets.items():
        fittest, chosen, count = measure(sam, images)
        print(
            f"{name}: IoU of the fittest mask {fittest:.3f}, of the chosen one {chosen:.3f}, {count} parts", flush=True
        )


if __name__ == "__main__":
    main()
