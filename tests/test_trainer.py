# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""transformers' own Trainer with the model: it trains the head alone, evaluates, predicts and resumes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_training import batch_of_step
from transformers import EvalPrediction, Trainer, TrainingArguments

from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation


class Images(torch.utils.data.Dataset):
    """Eight images with one bright square each, one by one."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        step, row = divmod(index, 2)
        batch = batch_of_step(step)
        return {
            "pixel_values": batch["pixel_values"][row],
            "text_embeds": batch["text_embeds"][0],
            "labels": batch["labels"][row],
        }


def abnormal_share(prediction: EvalPrediction) -> dict[str, float]:
    return {"mean": float(np.mean(prediction.predictions)), "images": float(len(prediction.label_ids))}


def build_trainer(model: ClipSamForAnomalySegmentation, folder: Path, **options: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        learning_rate=3e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        # Of the output, only the map is wanted by the metrics
        **{"max_steps": 6, "save_steps": 3, "logging_steps": 1, **options},
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=Images(),
        eval_dataset=Images(),
        compute_metrics=abnormal_share,
        preprocess_logits_for_metrics=lambda outputs, labels: outputs[1],
    )


def test_the_trainer_trains_the_head_alone(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    trainer = build_trainer(tiny_model, tmp_path, max_steps=30, save_strategy="no")
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]

    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    changed = {name for name, tensor in tiny_model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("umci.") for name in changed)


def test_the_trainer_evaluates_and_predicts(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    trainer = build_trainer(tiny_model, tmp_path)
    figures = trainer.evaluate()
    predictions = trainer.predict(Images())

    assert figures["eval_images"] == 8 and np.isfinite(figures["eval_loss"])
    assert predictions.predictions.shape == (8, 32, 32)
    assert 0 <= predictions.predictions.min() and predictions.predictions.max() <= 1


def test_the_trainer_resumes_to_the_same_weights(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    build_trainer(tiny_model, tmp_path).train()
    whole = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    with torch.no_grad():
        for parameter in tiny_model.umci.parameters():
            parameter.zero_()
    build_trainer(tiny_model, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_a_saved_model_of_the_trainer_loads(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    trainer = build_trainer(tiny_model, tmp_path, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))

    loaded = ClipSamForAnomalySegmentation.from_pretrained(tmp_path / "saved")
    assert loaded.head_is_trained
    assert torch.equal(loaded.umci[0].fuse.weight, tiny_model.umci[0].fuse.weight)
