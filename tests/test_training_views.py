# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Training views: image and mask move together, views depend on (seed, index, view) alone, bad input is named."""

import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipsam_hf.data import AnomalyFolder, AnomalySample
from clipsam_hf.image_loading import ImageReadError
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training.views import TrainingImages


SIZE = 32


def make_sample(place: int, *, label: int | None = 1, category: str = "plate") -> AnomalySample:
    """An image in memory with a white rectangle on black in its upper left part, which is the defect."""
    values = np.zeros((SIZE, SIZE), dtype=np.uint8)
    values[2:10, 4 : 8 + place] = 255
    image = Image.fromarray(values).convert("RGB")
    mask = Image.fromarray(values) if label == 1 else None
    words = {"category": category, "class_name": category, "defect_type": None, "split": "test"}
    return AnomalySample(Path(f"{category}/{place}.png"), None, label, **words, image=image, mask=mask)


@pytest.fixture
def samples() -> list[AnomalySample]:
    return [make_sample(place) for place in range(5)]


def shown(view: Any) -> torch.Tensor:
    """Where the picture is white, read from the pixels that CLIP sees."""
    return (view.pixel_values[0] > 0.5).to(torch.uint8)


def test_view_zero_is_what_the_processor_makes(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    view = TrainingImages(samples, tiny_processor).view(3)
    inputs = tiny_processor(
        images=samples[3].load_image(), segmentation_maps=samples[3].load_mask(), return_tensors="pt"
    )

    assert torch.equal(view.pixel_values, inputs["pixel_values"][0])
    assert torch.equal(view.labels, inputs["labels"][0])
    assert (view.pixel_values.dtype, view.labels.dtype) == (torch.float32, torch.uint8)
    assert (view.class_name, view.file_name) == ("plate", "plate/3.png")


def test_four_views_are_the_four_flips(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    images = TrainingImages(samples, tiny_processor)
    plain = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    plain[2:10, 4:9] = 1
    flips = [plain, plain.flip(1), plain.flip(0), plain.flip(0, 1)]

    for first in (0, 4, 8):
        labels = [images.view(1, view).labels for view in range(first, first + 4)]
        assert torch.equal(labels[0], plain)
        assert all(any(torch.equal(flip, found) for found in labels) for flip in flips)


@pytest.mark.parametrize("mosaic_probability", [0.0, 1.0])
def test_image_and_mask_move_together(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor, mosaic_probability: float
) -> None:
    # Blocks of 4 pixels survive the halving of a mosaic exactly
    for sample in samples:
        sample.image.paste(Image.new("RGB", (SIZE, SIZE)))
        sample.image.paste("white", (4, 8, 16, 12))
        sample.mask.paste(Image.new("L", (SIZE, SIZE)))
        sample.mask.paste(255, (4, 8, 16, 12))
    images = TrainingImages(samples, tiny_processor, mosaic_probability=mosaic_probability)
    views = [images.view(index, view) for index in range(5) for view in range(6)]

    for view in views:
        assert torch.equal(shown(view), view.labels)
    assert len({view.labels.numpy().tobytes() for view in views}) > 3


def test_a_mosaic_has_four_images_of_its_category(tiny_processor: ClipSamProcessor) -> None:
    # Each image is of one grey, so the mean of a quarter tells which it is
    greys = [20, 60, 100, 140, 180, 220]
    samples = []
    for place, grey in enumerate(greys):
        sample = make_sample(place, category="plate" if place < 5 else "bottle")
        samples.append(replace(sample, image=Image.new("RGB", (SIZE, SIZE), (grey,) * 3)))
    images = TrainingImages(samples, tiny_processor, mosaic_probability=1.0)
    plain = [images.view(index).pixel_values[0, 0, 0].item() for index in range(6)]

    for view in range(1, 9):
        pixels = images.view(2, view).pixel_values[0]
        quarters = [
            pixels[rows, columns] for rows in (slice(16), slice(16, 32)) for columns in (slice(16), slice(16, 32))
        ]
        assert all(quarter.min() == quarter.max() for quarter in quarters)
        drawn = [plain.index(quarter[0, 0].item()) for quarter in quarters]
        assert len(set(drawn)) == 4 and 2 in drawn and 5 not in drawn


def test_a_mosaic_of_known_draws_is_put_together_by_hand(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = [np.zeros((4, 4), dtype=np.uint8) for _ in range(4)]
    for place, mask in enumerate(masks):
        mask[0, : place + 1] = 255  # one to four defect pixels in the top row
    samples = [
        replace(sample, image=Image.new("RGB", (4, 4)), mask=Image.fromarray(mask))
        for sample, mask in zip(samples, masks, strict=False)
    ]
    tiny_processor.image_processor.size = {"height": 8, "width": 8}
    images = TrainingImages(samples, tiny_processor, mosaic_probability=1.0)
    tile = type(images._plan(0, 0)[0])
    monkeypatch.setattr(images, "_plan", lambda index, view: [tile(0, 0), tile(1, 1), tile(2, 2), tile(3, 3)])

    assert images.labels(0, 1).tolist() == [
        [1, 0, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 1, 1, 1],
    ]


def test_an_odd_frame_is_filled(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    tiny_processor.image_processor.size = {"height": 37, "width": 35}
    view = TrainingImages(samples, tiny_processor, mosaic_probability=1.0).view(0, 1)

    assert view.pixel_values.shape == (3, 37, 35)
    assert view.labels.shape == (37, 35)


def test_a_lone_image_makes_a_mosaic_of_itself(tiny_processor: ClipSamProcessor) -> None:
    view = TrainingImages([make_sample(0)], tiny_processor, mosaic_probability=1.0).view(0, 1)

    assert view.labels.sum() == 4 * 4 * 2


def test_the_share_of_mosaics_is_the_probability(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor
) -> None:
    images = TrainingImages(samples, tiny_processor, mosaic_probability=0.25)
    mosaics = [len(images._plan(index, view)) == 4 for index in range(5) for view in range(1, 201)]

    assert 0.2 < np.mean(mosaics) < 0.3


def test_views_depend_on_the_seed_and_not_on_the_order_of_calls(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor
) -> None:
    def digests(seed: int, order: list[int]) -> dict[int, str]:
        images = TrainingImages(samples, tiny_processor, seed=seed, mosaic_probability=0.5)
        return {view: images.view(2, view).digest for view in order}

    forwards, backwards = list(range(12)), list(range(11, -1, -1))
    assert digests(0, forwards) == digests(0, backwards)
    assert digests(0, forwards) != digests(1, forwards)


def test_a_worker_gets_the_same_views(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    images = TrainingImages(samples, tiny_processor, mosaic_probability=0.5)
    copied = pickle.loads(pickle.dumps(images)).view(1, 3)

    assert torch.equal(copied.pixel_values, images.view(1, 3).pixel_values)
    assert copied.digest == images.view_digest(1, 3)


def test_equal_digests_mean_equal_pixels(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    images = TrainingImages([*samples, samples[0]], tiny_processor, mosaic_probability=0.3)
    pixels: dict[str, bytes] = {}
    for index in range(6):
        for view in range(8):
            found = images.view(index, view)
            assert pixels.setdefault(found.digest, found.pixel_values.numpy().tobytes()) == (
                found.pixel_values.numpy().tobytes()
            )
    assert images.view_digest(0) == images.view_digest(5)
    assert len(set(pixels.values())) == len(pixels)


def test_a_digest_follows_pixels_and_settings(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    before = TrainingImages(samples, tiny_processor).view_digest(0)
    samples[0].image.putpixel((31, 31), (0, 0, 1))
    other_pixels = TrainingImages(samples, tiny_processor).view_digest(0)
    tiny_processor.image_processor.image_mean = (0.5, 0.5, 0.5)
    other_settings = TrainingImages(samples, tiny_processor).view_digest(0)

    assert len({before, other_pixels, other_settings}) == 3


def test_the_digest_of_the_set_follows_masks_and_words(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor
) -> None:
    before = TrainingImages(samples, tiny_processor)
    mask = Image.new("L", (SIZE, SIZE), 1)
    other_mask = TrainingImages([replace(samples[0], mask=mask), *samples[1:]], tiny_processor)
    other_word = TrainingImages([replace(samples[0], class_name="tray"), *samples[1:]], tiny_processor)
    other_seed = TrainingImages(samples, tiny_processor, seed=1)

    assert len({images.digest for images in (before, other_mask, other_word, other_seed)}) == 4
    assert other_mask.view_digest(0) == before.view_digest(0)


def test_labels_need_no_photograph(tmp_path: Path, tiny_processor: ClipSamProcessor) -> None:
    root = write_plates(tmp_path)
    images = TrainingImages(AnomalyFolder(root), tiny_processor)
    expected = [images.view(index).labels for index in range(len(images))]
    for path in root.glob("test/*/*.jpg"):
        path.write_bytes(path.read_bytes()[:-200])  # the header is still there

    assert [torch.equal(images.labels(index), labels) for index, labels in enumerate(expected)] == [True] * 3


def write_plates(root: Path) -> Path:
    """A category with one good and two bad plates."""
    generator = np.random.default_rng(0)
    for name in ("good/0", "bad/1", "bad/2"):
        path = root / "plate" / "test" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    (root / "plate" / "ground_truth" / "bad").mkdir(parents=True)
    for number in (1, 2):
        mask = np.zeros((40, 50), dtype=np.uint8)
        mask[:10, : 10 * number] = 255
        Image.fromarray(mask).save(root / "plate" / "ground_truth" / "bad" / f"{number}_mask.png")
    return root / "plate"


def test_a_corrupt_photograph_is_named(tmp_path: Path, tiny_processor: ClipSamProcessor) -> None:
    folder = AnomalyFolder(write_plates(tmp_path))
    images = TrainingImages(folder, tiny_processor)
    path = folder[1].image_path
    path.write_bytes(path.read_bytes()[:200])

    images.view(0)
    with pytest.raises(ImageReadError, match=path.name):
        images.view(1)


def test_a_corrupt_image_without_a_file_is_named_by_its_number(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    Image.effect_noise((SIZE, SIZE), 50).save(tmp_path / "noise.png")
    content = (tmp_path / "noise.png").read_bytes()
    (tmp_path / "noise.png").write_bytes(content[: len(content) // 2])
    broken = replace(samples[1], image_path=Path("."), image=Image.open(tmp_path / "noise.png"))

    images = TrainingImages([samples[0], broken], tiny_processor)
    for read in (images.view, images.view_digest):
        with pytest.raises(ImageReadError, match="image 1"):
            read(1)


def test_digests_see_colours_behind_a_palette(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    palettes = [Image.new("P", (SIZE, SIZE)) for _ in range(2)]
    for image, colour in zip(palettes, (10, 200), strict=True):
        image.putpalette([colour] * 3)
    images = TrainingImages([replace(samples[0], image=image) for image in palettes], tiny_processor)

    assert images.view_digest(0) != images.view_digest(1)


def test_samples_are_asked_for_once(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    class Counting(list):
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return super().__iter__()

    counting = Counting(samples)
    TrainingImages(counting, tiny_processor)

    assert counting.passes == 1


def test_sizes_that_differ_are_named(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    images = TrainingImages([replace(samples[2], mask=Image.new("L", (7, 9), 1))], tiny_processor)

    with pytest.raises(ValueError, match=r"2\.png' is 32x32.*is 9x7"):
        images.view(0)


def test_no_images_are_refused(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="no image"):
        TrainingImages([], tiny_processor)


def test_a_set_without_any_mask_is_refused(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="None of the 2 images has a mask"):
        TrainingImages([make_sample(place, label=0) for place in range(2)], tiny_processor)


@pytest.mark.parametrize("label", [1, None])
def test_images_without_pixel_truth_are_counted(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor, label: int | None
) -> None:
    unknown = [replace(sample, label=label, mask=None) for sample in samples[:2]]

    with pytest.raises(ValueError, match=r"2 of 5 images have no pixel truth, such as 'plate/0\.png'"):
        TrainingImages([*unknown, *samples[2:]], tiny_processor)


def test_a_category_without_defects_warns(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    good = make_sample(0, label=0, category="bottle")

    with pytest.warns(UserWarning, match="No image of 'bottle' has a defect"):
        TrainingImages([*samples, good], tiny_processor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TrainingImages([*samples, make_sample(0, label=0)], tiny_processor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"num_views": 0}, "`num_views` must be an integer of at least 1, got 0"),
        ({"num_views": 2.0}, "`num_views` must be an integer of at least 1, got 2.0"),
        ({"mosaic_probability": 1.5}, r"`mosaic_probability` must lie in \[0, 1\], got 1.5"),
        ({"mosaic_probability": float("nan")}, r"`mosaic_probability` must lie in \[0, 1\], got nan"),
        ({"num_views": 3, "flip": False}, "all views are the same, but `num_views` is 3"),
    ],
)
def test_options_out_of_range_are_refused(
    samples: list[AnomalySample], tiny_processor: ClipSamProcessor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingImages(samples, tiny_processor, **options)


def test_places_that_do_not_exist_are_refused(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    images = TrainingImages(samples, tiny_processor)

    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"no image {index}; there are 5"):
            images.view(index)
    with pytest.raises(ValueError, match="`view` must be an integer of at least 0, got -1"):
        images.view(0, -1)


def test_class_names_are_those_of_the_samples(samples: list[AnomalySample], tiny_processor: ClipSamProcessor) -> None:
    images = TrainingImages([replace(samples[0], class_name="tray"), *samples[1:]], tiny_processor)

    assert images.class_names == ["plate", "tray"]
