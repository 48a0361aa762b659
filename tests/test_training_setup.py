# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a run is made of before its first step: batches that stay the same, and steps that follow from them."""

import pytest

from clipsam_hf.training.arguments import parse_arguments, public_command
from clipsam_hf.training.setup import count_steps, split_batch


MODEL = ["--model_name_or_path", "org/clipsam", "--data_dir", "plates", "--output_dir", "run"]


@pytest.mark.parametrize("total", [1, 3, 7, 8, 12])
@pytest.mark.parametrize("per_device", [1, 2, 5, 8])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8, 16])
def test_a_step_has_all_its_images_and_no_process_too_many(total: int, per_device: int, num_processes: int) -> None:
    batch_size, parts = split_batch(total, per_device, num_processes)

    assert batch_size * parts == total
    assert -(-batch_size // num_processes) <= per_device


@pytest.mark.parametrize(
    ("total", "per_device", "num_processes", "expected"),
    [(8, 8, 8, (8, 1)), (8, 8, 1, (8, 1)), (8, 3, 1, (2, 4)), (8, 1, 2, (2, 4)), (7, 2, 2, (1, 7))],
)
def test_as_few_forward_passes_as_fit(
    total: int, per_device: int, num_processes: int, expected: tuple[int, int]
) -> None:
    assert split_batch(total, per_device, num_processes) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (8, 6, 2)),  # 6 epochs of 10 images are 60, in steps of 8
        (["--total_train_batch_size", "5"], (12, 6, 2)),
        (["--max_train_steps", "3"], (3, 3, 2)),  # 24 images
        (["--checkpointing_steps", "7"], (8, 6, 7)),
        (["--per_device_train_batch_size", "1"], (8, 6, 2)),
    ],
)
def test_steps_are_counted_in_images(options: list[str], expected: tuple[int, int, int]) -> None:
    assert count_steps(parse_arguments([*MODEL, *options]), 10) == expected


def test_the_batch_of_a_step_is_that_of_the_paper() -> None:
    assert parse_arguments(MODEL).total_train_batch_size == 8


@pytest.mark.parametrize(
    "name", ["total_train_batch_size", "per_device_train_batch_size", "per_device_eval_batch_size", "text_variants"]
)
def test_counts_must_be_positive(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments([*MODEL, f"--{name}", "0"])
    assert caught.value.code == 2
    assert f"--{name} must be positive, got 0" in capsys.readouterr().err


def test_a_shortened_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A token under half of its option's name would not be known as one."""
    with pytest.raises(SystemExit):
        parse_arguments([*MODEL, "--hub_tok", "hf_secret"])
    assert "unrecognized arguments: --hub_tok" in capsys.readouterr().err


def test_the_command_is_part_of_the_options() -> None:
    arguments = [*MODEL, "--hub_token", "hf_secret"]

    assert parse_arguments(arguments).command == public_command(MODEL)
