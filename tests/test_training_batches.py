# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which image is in which batch, and what each process gets of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsam_hf.data import AnomalySample
from clipsam_hf.image_loading import ImageReadError
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training import train_umci
from clipsam_hf.training.batches import FunctionBatches, Place, TrainingBatches, draw_order
from clipsam_hf.training.texts import draw_text
from clipsam_hf.training.views import TrainingImages


def sample(path: Path, number: int) -> AnomalySample:
    rng = np.random.default_rng(number)
    image, mask = path / f"{number}.png", path / f"{number}_mask.png"
    pixels, defect = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8), np.zeros((40, 40), dtype=np.uint8)
    pixels[number : number + 16, 12:32], defect[number : number + 16, 12:32] = 250, 255
    Image.fromarray(pixels).save(image)
    Image.fromarray(defect).save(mask)
    word = "plate" if number % 2 else "candle"
    return AnomalySample(image, mask, 1, word, word, "spot", "test")


TEXTS = {
    word: torch.nn.functional.normalize(torch.full((2, 16), value), dim=-1)
    for word, value in (("plate", 1.0), ("candle", -1.0))
}


@pytest.fixture
def images(tmp_path: Path, tiny_processor: ClipSamProcessor) -> TrainingImages:
    """Five images with two views each."""
    return TrainingImages([sample(tmp_path, number) for number in range(5)], tiny_processor, num_views=2)


def test_every_epoch_has_each_image_once_in_another_order(images: TrainingImages) -> None:
    batches = TrainingBatches(images, TEXTS, batch_size=2, seed=3)
    places = [place for batch in range(5) for place in batches.places(batch)]

    first, second = [place.image for place in places[:5]], [place.image for place in places[5:]]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first == draw_order(5, 3, 0).tolist() != second == draw_order(5, 3, 1).tolist()


def test_epochs_take_the_views_in_turn(images: TrainingImages) -> None:
    batches = TrainingBatches(images, TEXTS, batch_size=5)

    assert [{place.view for place in batches.places(epoch)} for epoch in range(3)] == [{0}, {1}, {0}]


def test_another_seed_gives_another_order(images: TrainingImages) -> None:
    orders = [TrainingBatches(images, TEXTS, batch_size=5, seed=seed).places(0) for seed in (0, 1)]

    assert orders[0] != orders[1]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5, 7])
def test_the_shares_of_the_processes_are_the_batch(images: TrainingImages, num_processes: int) -> None:
    batches = TrainingBatches(images, TEXTS, batch_size=5)
    whole = batches.collate(batches.places(1))
    shares = [
        next(batches.load(1, 2, process_index=index, num_processes=num_processes)) for index in range(num_processes)
    ]

    assert sum(share.weight for share in shares) == pytest.approx(1)
    for name in ("pixel_values", "labels", "text_embeds"):
        # A process without images computes one that does not count
        assert torch.equal(torch.cat([share.inputs[name] for share in shares if share.weight]), whole[name])


def test_workers_change_nothing(images: TrainingImages) -> None:
    alone, helped = (
        list(
            TrainingBatches(images, TEXTS, batch_size=3, num_workers=number).load(
                2, 5, process_index=0, num_processes=1
            )
        )
        for number in (0, 2)
    )

    assert all(
        torch.equal(a.inputs["pixel_values"], b.inputs["pixel_values"]) for a, b in zip(alone, helped, strict=True)
    )


def test_texts_belong_to_their_images(images: TrainingImages) -> None:
    batches = TrainingBatches(images, TEXTS, batch_size=4)
    inputs = batches.collate([Place(1), Place(2)])

    assert torch.equal(inputs["text_embeds"], torch.stack([TEXTS["plate"], TEXTS["candle"]]))


def several_texts(count: int) -> dict[str, torch.Tensor]:
    embeds = torch.randn(len(TEXTS), count, 2, 16, generator=torch.Generator().manual_seed(0))
    return dict(zip(TEXTS, torch.nn.functional.normalize(embeds, dim=-1), strict=True))


def test_an_image_is_spoken_of_in_another_way_in_another_epoch(images: TrainingImages) -> None:
    texts = several_texts(4)
    batches = TrainingBatches(images, texts, batch_size=5, seed=1)
    for epoch in range(3):
        places = batches.places(epoch)
        assert [place.text for place in places] == [draw_text(4, 1, epoch, place.image) for place in places]
        expected = [texts["plate" if place.image % 2 else "candle"][place.text] for place in places]
        assert torch.equal(batches.collate(places)["text_embeds"], torch.stack(expected))
    seen = [{place.image: place.text for place in batches.places(epoch)} for epoch in range(3)]
    assert seen[0] != seen[1] != seen[2]


def test_every_process_has_the_texts_of_its_images(images: TrainingImages) -> None:
    batches = TrainingBatches(images, several_texts(4), batch_size=5)
    whole = batches.collate(batches.places(2))["text_embeds"]
    shares = [next(batches.load(2, 3, process_index=index, num_processes=2)) for index in (0, 1)]

    assert torch.equal(torch.cat([share.inputs["text_embeds"] for share in shares]), whole)


def test_a_class_name_without_text_is_refused(images: TrainingImages) -> None:
    with pytest.raises(ValueError, match=r"lacks the class names \['candle'\]; it has \['plate'\]"):
        TrainingBatches(images, {"plate": TEXTS["plate"]}, batch_size=1)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("seed", -1), ("num_workers", -1)])
def test_a_number_out_of_range_is_refused(images: TrainingImages, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
        TrainingBatches(images, TEXTS, **{"batch_size": 1, name: value})


@pytest.mark.parametrize("change", ["image", "text", "more texts", "seed", "size"])
def test_the_description_tells_batches_apart(
    images: TrainingImages, tmp_path: Path, tiny_processor: ClipSamProcessor, change: str
) -> None:
    before = TrainingBatches(images, TEXTS, batch_size=2).describe()
    assert TrainingBatches(images, TEXTS, batch_size=2).describe() == before
    options, texts = {"batch_size": 2}, TEXTS
    if change == "image":
        Image.new("RGB", (40, 40)).save(tmp_path / "3.png")
        images = TrainingImages(images.samples, tiny_processor, num_views=2)
    elif change == "text":
        texts = {**TEXTS, "plate": TEXTS["candle"]}
    elif change == "more texts":
        texts = {word: embeds.expand(2, 2, 16) for word, embeds in TEXTS.items()}
    else:
        options["seed" if change == "seed" else "batch_size"] = 7

    assert TrainingBatches(images, texts, **options).describe() != before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_in_the_middle_is_named(
    images: TrainingImages, tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation, num_workers: int
) -> None:
    (tmp_path / "2.png").write_bytes(b"not an image")
    batches = TrainingBatches(images, TEXTS, batch_size=1, num_workers=num_workers)

    with pytest.raises(ImageReadError, match=r"2\.png"):
        train_umci(tiny_model, batches, num_steps=5)


def test_a_whole_set_is_learned(images: TrainingImages, tiny_model: ClipSamForAnomalySegmentation) -> None:
    batches = TrainingBatches(images, TEXTS, batch_size=5)
    losses = train_umci(tiny_model, batches, num_steps=30, learning_rate=1e-2)

    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_a_function_gives_each_process_its_rows() -> None:
    def batch(number: int) -> dict[str, object]:
        rows = torch.arange(5) + 10 * number
        return {"labels": rows, "feature_maps": (rows[:, None], rows[:, None]), "text_embeds": torch.zeros(1, 2, 3)}

    shares = [next(FunctionBatches(batch).load(1, 2, process_index=index, num_processes=2)) for index in (0, 1)]

    assert [share.weight for share in shares] == [0.4, 0.6]
    assert [share.inputs["labels"].tolist() for share in shares] == [[10, 11], [12, 13, 14]]
    assert shares[1].inputs["feature_maps"][1].tolist() == [[12], [13], [14]]
    assert shares[0].inputs["text_embeds"].shape == (1, 2, 3)
