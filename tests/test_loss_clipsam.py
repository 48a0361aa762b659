# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Focal and dice loss against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from clipsam_hf.loss_clipsam import anomaly_segmentation_loss, dice_loss, focal_loss, resize_labels


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """(1, 2, height, width) logits whose softmax gives these abnormal probabilities."""
    probability = torch.tensor([probabilities])
    return torch.stack([torch.zeros_like(probability), torch.logit(probability)], dim=1)


def maps(values: list[list[float]]) -> Tensor:
    return torch.tensor([values])


ONE = maps([[1.0, 1.0]])


# --- labels


def test_labels_are_resized_by_area() -> None:
    labels = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 0]]])
    target, weight = resize_labels(labels, (1, 2))
    assert target.tolist() == [[[0.75, 0.0]]]
    assert weight.tolist() == [[[1.0, 1.0]]]


def test_labels_of_a_size_that_is_no_multiple_are_means_of_all_touched_pixels() -> None:
    # Two cells over three pixels: the middle one belongs to both.
    target, _ = resize_labels(torch.tensor([[[1, 0, 0]]]), (1, 2))
    assert target.tolist() == [[[0.5, 0.0]]]


def test_small_labels_are_repeated() -> None:
    target, weight = resize_labels(torch.tensor([[[1, 0]]]), (2, 4))
    assert target.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0]]]
    assert weight.min() == 1


def test_ignored_pixels_are_left_out_of_the_mean() -> None:
    labels = torch.tensor([[[1, -100, -100, -100], [0, -100, -100, -100]]])
    target, weight = resize_labels(labels, (1, 2))
    assert target.tolist() == [[[0.5, 0.0]]]
    assert weight.tolist() == [[[0.5, 0.0]]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32, torch.float16])
def test_labels_of_every_dtype_are_taken(dtype: torch.dtype) -> None:
    target, weight = resize_labels(torch.tensor([[[1, 0], [1, 1]]]).to(dtype), (1, 1))
    assert (target.item(), weight.item()) == (0.75, 1.0)


@pytest.mark.parametrize("wrong", [255, 2, -1, 1.5, math.nan, math.inf])
def test_other_label_values_raise(wrong: float) -> None:
    with pytest.raises(ValueError, match="1 for defect, 0 for good and -100 for ignore"):
        resize_labels(torch.tensor([[[0.0, wrong]]]), (1, 1))


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4)])
def test_labels_of_another_shape_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be \\(batch_size, height, width\\), but got shape"):
        resize_labels(torch.zeros(shape), (1, 1))


# --- focal


def test_focal_loss_of_one_defect_cell() -> None:
    # p = 0.8: (1 - 0.8)^2 x -ln 0.8 = 0.04 x 0.223144 = 0.00892574
    assert focal_loss(logits_of([[0.8]]), maps([[1.0]]), maps([[1.0]])).item() == pytest.approx(0.00892574, rel=1e-5)


def test_focal_loss_of_one_good_cell() -> None:
    # p(normal) = 0.2: (1 - 0.2)^2 x -ln 0.2 = 0.64 x 1.609438 = 1.0300403
    assert focal_loss(logits_of([[0.8]]), maps([[0.0]]), maps([[1.0]])).item() == pytest.approx(1.0300403, rel=1e-5)


def test_focal_loss_of_a_mixed_cell_is_the_mixture() -> None:
    expected = 0.25 * 0.00892574 + 0.75 * 1.0300403
    assert focal_loss(logits_of([[0.8]]), maps([[0.25]]), maps([[1.0]])).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_with_gamma_0_is_cross_entropy() -> None:
    value = focal_loss(logits_of([[0.8, 0.3]]), maps([[1.0, 0.0]]), ONE, gamma=0.0).item()
    assert value == pytest.approx((-math.log(0.8) - math.log(0.7)) / 2, rel=1e-5)


def test_focal_loss_is_a_weighted_mean() -> None:
    # Weights 1 and 0.5 on 0.00892574 and 1.0300403
    value = focal_loss(logits_of([[0.8, 0.8]]), maps([[1.0, 0.0]]), maps([[1.0, 0.5]])).item()
    assert value == pytest.approx((0.00892574 + 0.5 * 1.0300403) / 1.5, rel=1e-5)


# --- dice


def test_dice_loss_by_hand() -> None:
    # overlap 0.8, total 0.8 + 0.4 + 1: 1 - (1.6 + 1) / (2.2 + 1) = 0.1875
    assert dice_loss(logits_of([[0.8, 0.4]]), maps([[1.0, 0.0]]), ONE).item() == pytest.approx(0.1875, rel=1e-5)


def test_dice_loss_without_smoothing() -> None:
    value = dice_loss(logits_of([[0.8, 0.4]]), maps([[1.0, 0.0]]), ONE, smooth=0.0).item()
    assert value == pytest.approx(1 - 1.6 / 2.2, rel=1e-5)


def test_dice_loss_leaves_out_what_has_no_weight() -> None:
    # overlap 0.8, total 1.8: 1 - 2.6 / 2.8
    value = dice_loss(logits_of([[0.8, 0.4]]), maps([[1.0, 0.0]]), maps([[1.0, 0.0]])).item()
    assert value == pytest.approx(1 - 2.6 / 2.8, rel=1e-5)


def test_dice_loss_of_a_good_image_with_an_empty_map_is_0() -> None:
    logits = torch.tensor([[[[100.0]], [[-100.0]]]])
    assert dice_loss(logits, maps([[0.0]]), maps([[1.0]])).item() == pytest.approx(0.0, abs=1e-6)


# --- both, over stages and images


def test_loss_is_the_mean_over_stages() -> None:
    logits = torch.stack([logits_of([[0.8]]), logits_of([[0.3]])], dim=1)
    labels = torch.ones(1, 5, 5)
    stages = [anomaly_segmentation_loss(stage[:, None], labels) for stage in logits.unbind(1)]
    assert anomaly_segmentation_loss(logits, labels).item() == pytest.approx((stages[0] + stages[1]).item() / 2)
    # focal 0.00892574 + dice 1 - 2.6 / 2.8
    assert stages[0].item() == pytest.approx(0.00892574 + 1 - 2.6 / 2.8, rel=1e-5)


def test_stage_weights_are_relative() -> None:
    logits = torch.stack([logits_of([[0.8]]), logits_of([[0.3]])], dim=1)
    labels = torch.ones(1, 5, 5)
    first, second = (anomaly_segmentation_loss(stage[:, None], labels).item() for stage in logits.unbind(1))
    weighted = anomaly_segmentation_loss(logits, labels, stage_weights=(1, 3)).item()
    assert weighted == pytest.approx(0.25 * first + 0.75 * second, rel=1e-5)


def test_stage_of_weight_0_has_no_gradient() -> None:
    logits = torch.randn(1, 2, 2, 3, 3, requires_grad=True)
    anomaly_segmentation_loss(logits, torch.ones(1, 3, 3), stage_weights=(0.0, 1.0)).backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].abs().max() == 0 and logits.grad[:, 1].abs().min() > 0


def test_loss_of_a_batch_is_the_mean_of_its_images() -> None:
    logits, labels = torch.randn(3, 2, 2, 4, 4), torch.randint(0, 2, (3, 9, 7))
    labels[1, :, :4] = -100  # images of different weight
    singles = [anomaly_segmentation_loss(logits[i : i + 1], labels[i : i + 1]).item() for i in range(3)]
    assert anomaly_segmentation_loss(logits, labels).item() == pytest.approx(sum(singles) / 3, rel=1e-5)


def test_gamma_reaches_the_focal_loss() -> None:
    logits, labels = logits_of([[0.8]])[:, None], torch.ones(1, 1, 1)
    plain, focused = (anomaly_segmentation_loss(logits, labels, focal_gamma=gamma).item() for gamma in (0.0, 2.0))
    assert plain - focused == pytest.approx(-math.log(0.8) - 0.00892574, rel=1e-4)


def test_wholly_ignored_image_has_loss_0_and_no_gradient() -> None:
    logits = torch.randn(1, 2, 2, 3, 3, requires_grad=True)
    loss = anomaly_segmentation_loss(logits, torch.full((1, 6, 6), -100))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None and logits.grad.abs().max() == 0


@pytest.mark.parametrize("magnitude", [1e4, 3e38])
def test_huge_logits_give_a_finite_gradient(magnitude: float) -> None:
    logits = torch.zeros(1, 1, 2, 2, 2)
    logits[:, :, 0] = magnitude
    logits.requires_grad_()
    anomaly_segmentation_loss(logits, torch.tensor([[[0, 1], [1, 0]]])).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_certain_logits_give_a_finite_gradient(gamma: float) -> None:
    # At p = 1 the base of the power is 0, where a root has an infinite slope.
    logits = torch.zeros(1, 1, 2, 1, 1)
    logits[:, :, 1] = 100.0
    logits.requires_grad_()
    anomaly_segmentation_loss(logits, torch.ones(1, 1, 1), focal_gamma=gamma).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 2, 2, 3, 3).to(dtype)
    labels = torch.randint(0, 2, (1, 3, 3))
    loss = anomaly_segmentation_loss(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(anomaly_segmentation_loss(logits.float(), labels).item(), rel=1e-6)


def test_labels_of_another_batch_size_raise() -> None:
    with pytest.raises(ValueError, match="`labels` has 3 images, but `logits` has 2"):
        anomaly_segmentation_loss(torch.zeros(2, 1, 2, 4, 4), torch.zeros(3, 4, 4))


# --- at the size of the image


def test_at_the_size_of_the_image_logits_are_upsampled_to_the_labels() -> None:
    # Differences 0 and 4 of two tokens over four pixels, half-pixel centres: 0, 1, 3, 4
    logits = torch.tensor([[[[[0.0, 0.0]], [[0.0, 4.0]]]]])
    probabilities = [1 / (1 + math.exp(-difference)) for difference in (0, 1, 3, 4)]
    labels = [0, 1, 0, 1]
    chances = [p if label else 1 - p for p, label in zip(probabilities, labels, strict=True)]
    focal = sum(-((1 - chance) ** 2) * math.log(chance) for chance in chances) / 4
    dice = 1 - (2 * (probabilities[1] + probabilities[3]) + 1) / (sum(probabilities) + 2 + 1)

    value = anomaly_segmentation_loss(logits, torch.tensor([[labels]]), resolution="image").item()
    assert value == pytest.approx(focal + dice, rel=1e-5)


def test_a_small_defect_counts_at_the_size_of_the_image() -> None:
    """7 x 7 pixels are a quarter of a token of 14: missed, they cost 1 - 1 / 1.25 there, and 1 - 1 / 50 here."""
    labels = torch.zeros(1, 28, 28)
    labels[0, 3:10, 3:10] = 1
    missed = torch.zeros(1, 1, 2, 2, 2)
    missed[:, :, 0] = 30.0
    # Focal loss: 30 for each of 49 pixels among 28 x 28, or for a quarter of one token among four
    focal = 49 * 30 / 28**2
    assert focal == 0.25 * 30 / 4

    assert anomaly_segmentation_loss(missed, labels).item() == pytest.approx(focal + 1 - 1 / 1.25, abs=1e-4)
    at_image_size = anomaly_segmentation_loss(missed, labels, resolution="image").item()
    assert at_image_size == pytest.approx(focal + 1 - 1 / 50, abs=1e-4)


def test_both_resolutions_agree_where_labels_have_the_size_of_the_grid() -> None:
    logits, labels = torch.randn(2, 3, 2, 5, 4), torch.randint(0, 2, (2, 5, 4))
    grid, image = (anomaly_segmentation_loss(logits, labels, resolution=each).item() for each in ("grid", "image"))
    assert image == pytest.approx(grid, rel=1e-6)


def test_pixels_that_are_ignored_are_left_out_at_the_size_of_the_image() -> None:
    logits, labels = torch.randn(1, 2, 2, 3, 3, requires_grad=True), torch.randint(0, 2, (1, 12, 12))
    labels[:, :, :6] = -100
    other = torch.where(labels == -100, labels, 1 - labels)
    other[:, :, :6] = -100
    values = [anomaly_segmentation_loss(logits, each, resolution="image") for each in (labels, other)]
    assert values[0].item() != values[1].item()
    anomaly_segmentation_loss(logits, torch.full((1, 12, 12), -100), resolution="image").backward()
    assert logits.grad is not None and logits.grad.abs().max() == 0


def test_a_batch_at_the_size_of_the_image_is_the_mean_of_its_images() -> None:
    logits, labels = torch.randn(3, 2, 2, 4, 4), torch.randint(0, 2, (3, 9, 7))
    options = {"resolution": "image"}
    singles = [anomaly_segmentation_loss(logits[i : i + 1], labels[i : i + 1], **options).item() for i in range(3)]
    assert anomaly_segmentation_loss(logits, labels, **options).item() == pytest.approx(sum(singles) / 3, rel=1e-5)


def test_another_resolution_raises() -> None:
    with pytest.raises(ValueError, match="`resolution` must be 'grid' or 'image', but got 'pixel'"):
        anomaly_segmentation_loss(torch.zeros(1, 1, 2, 4, 4), torch.zeros(1, 4, 4), resolution="pixel")


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4)])
def test_labels_of_another_shape_raise_at_the_size_of_the_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be \\(batch_size, height, width\\), but got shape"):
        anomaly_segmentation_loss(torch.zeros(1, 1, 2, 4, 4), torch.zeros(shape), resolution="image")
