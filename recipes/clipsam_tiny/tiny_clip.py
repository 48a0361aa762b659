# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Stage 1 of `clipsam-tiny`: a small CLIP whose patches, not only whose images, are contrasted with sentences.

At every chosen block the patch tokens are compared with the texts exactly as the "similarity" localizer does it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synthetic_pool import FAINTEST, KINDS, Batch, ScenePool
from synthetic_words import ABNORMAL_STATES, CLASS_NAMES, DEFECT_STATES, MATERIALS, NORMAL_STATES, random_sentence
from tiny_common import CLIP_PIXELS, Schedule, normalise, patch_filters, phase, run_steps
from tiny_first_weights import PATCH, compare_with_image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer


__all__ = ["FURTHER", "ClipSettings", "clip_config", "train_clip"]

MAX_LOGIT_SCALE = float(np.log(100))
SENTENCES = 64
SENTENCE_LEARNING_RATE = 1.0e-3


@dataclass(frozen=True)
class ClipSettings:
    """
    Every choice of the stage. `schedule`: (last step, image side, batch size) of each phase.

    A run that goes on from another has `FURTHER` instead.
    """

    image_size: int = 256
    patch_size: int = 8
    hidden_size: int = 128
    num_layers: int = 5
    mlp_ratio: int = 3
    text_hidden_size: int = 128
    text_layers: int = 2
    projection_dim: int = 128
    feature_layers: tuple[int, ...] = (2, 3, 4, 5)
    schedule: Schedule = ((2500, 128, 32), (2900, 256, 8))
    peak_learning_rate: float = 2.0e-3
    warmup: int = 100
    paired: bool = False
    faintest: float = FAINTEST
    sentence_steps: int = 400
    text_sets: int = 1
    caption_weight: float = 0.3
    image_weight: float = 0.2
    kind_weight: float = 1.0
    kind_positive_weight: float = 3.0
    save_steps: int = 200


FURTHER = ClipSettings(
    schedule=((600, 128, 32), (1100, 192, 14), (1200, 256, 8)), peak_learning_rate=1.0e-3, paired=True, faintest=0.7
)


def clip_config(settings: ClipSettings, tokenizer: CLIPTokenizer) -> CLIPConfig:
    """Return the configuration of the network."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.text_hidden_size,
        "intermediate_size": 4 * settings.text_hidden_size,
        "num_hidden_layers": settings.text_layers,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "projection_dim": settings.projection_dim,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": settings.hidden_size,
        "intermediate_size": settings.mlp_ratio * settings.hidden_size,
        "num_hidden_layers": settings.num_layers,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "image_size": settings.image_size,
        "patch_size": settings.patch_size,
        "projection_dim": settings.projection_dim,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=settings.projection_dim)


class DenseContrast:
    """
    The loss of the stage, as a function of the step.

    Args:
        model: The network.
        tokenizer: Its tokenizer.
        pool: Where the images come from.
        settings: The choices.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, pool: ScenePool, settings: ClipSettings) -> None:
        self.model, self.tokenizer, self.pool, self.settings = model, tokenizer, pool, settings
        self.nouns = [*CLASS_NAMES, *(name for family in sorted(MATERIALS) for name in MATERIALS[family])]

    def embed(self, sentences: list[str]) -> torch.Tensor:
        """Return the normalised embeddings of sentences: (num_sentences, projection_dim)."""
        tokens = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)

    def state_sentences(self, rng: np.random.Generator) -> list[str]:
        """Draw `text_sets` sets of sentences: normal, abnormal, then one for every kind of defect."""
        states = [NORMAL_STATES, ABNORMAL_STATES, *(DEFECT_STATES[kind] for kind in KINDS)]
        nouns = [self.nouns[rng.integers(len(self.nouns))] for _ in range(self.settings.text_sets)]
        return [random_sentence(rng, state, noun) for noun in nouns for state in states]

    def captions(self, batch: Batch, rng: np.random.Generator) -> list[str]:
        """Return a sentence for each image: its material in the state that it is in."""
        present = [batch.present(number) for number in range(len(batch.words))]
        states = [DEFECT_STATES[kinds[rng.integers(len(kinds))]] if kinds else NORMAL_STATES for kinds in present]
        return [random_sentence(rng, state, words) for state, words in zip(states, batch.words, strict=True)]

    def targets(self, batch: Batch) -> torch.Tensor:
        """Return how far patches are covered by any defect and by each kind: (batch, 1 + kinds, num_patches)."""
        masks = F.one_hot(batch.kinds.long(), 1 + len(KINDS)).permute(0, 3, 1, 2).float()
        masks[:, 0] = 1 - masks[:, 0]
        cover = F.avg_pool2d(masks, self.settings.patch_size).flatten(2)
        # a thin crack covers little of a patch and is to be seen all the same
        return (2 * cover).clamp(max=1)

    def __call__(self, step: int) -> tuple[torch.Tensor, dict[str, float], int]:
        """Return the loss of a step, its parts, and the number of images."""
        rng = np.random.default_rng((self.pool.seed, step, 101))
        options = self.settings
        images: dict[str, Any] = {"paired": options.paired, "faintest": options.faintest}
        batch = self.pool.batch(step, **phase(options.schedule, step), **images)
        count, sets = len(batch.words), self.settings.text_sets
        text = self.embed([*self.captions(batch, rng), *self.state_sentences(rng)])
        captions, states = text[:count], text[count:].view(sets, 2 + len(KINDS), -1)

        # hidden states of the chosen blocks through CLIP's own head
        vision = self.model.vision_model(
            normalise(batch.images, CLIP_PIXELS),
            interpolate_pos_encoding=True,
            output_hidden_states=True,
        )
        stages = torch.stack([vision.hidden_states[layer][:, 1:] for layer in self.settings.feature_layers], 1)
        project, norm = self.model.visual_projection, self.model.vision_model.post_layernorm
        patches = F.normalize(project(norm(stages)), dim=-1)  # (batch, stages, num_patches, dim)
        image = F.normalize(project(vision.pooler_output), dim=-1)  # (batch, dim)

        # how much nearer to each abnormal sentence than to the normal one
        self.model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        scale = self.model.logit_scale.exp()
        chosen = states[torch.from_numpy(rng.integers(sets, size=count)).to(states.device)]  # (batch, 2 + kinds, dim)
        beyond = chosen[:, 1:] - chosen[:, :1]
        logits = scale * torch.einsum("bspd,bkd->bskp", patches, beyond)
        covered = self.targets(batch)  # (batch, 1 + kinds, num_patches)
        target = covered[:, None].expand_as(logits)
        dense = F.binary_cross_entropy_with_logits(logits[:, :, 0], target[:, :, 0])
        dice = soft_dice(logits[:, :, 0].sigmoid(), target[:, :, 0])
        weight = logits.new_tensor(self.settings.kind_positive_weight)
        kinds = F.binary_cross_entropy_with_logits(logits[:, :, 1:], target[:, :, 1:], pos_weight=weight)

        # the image as a whole: its caption, and whether anything is wrong
        order = torch.arange(count, device=image.device)
        similarity = scale * image @ captions.T
        caption = (F.cross_entropy(similarity, order) + F.cross_entropy(similarity.T, order)) / 2
        wrong = scale * torch.einsum("bd,bkd->bk", image, beyond)
        defective = (covered.amax(2) > 0).float()
        whole = F.binary_cross_entropy_with_logits(wrong, defective)

        loss = 4 * dense + dice + options.kind_weight * kinds
        loss = loss + options.caption_weight * caption + options.image_weight * whole
        figures = {"dense": dense, "dice": dice, "kinds": kinds, "caption": caption, "image": whole, "scale": scale}
        return loss, {name: value.item() for name, value in figures.items()}, count


def soft_dice(probability: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Dice loss over all patches of a stage and batch together, (batch, stages, num_patches) each."""
    both = (probability * target).sum((0, 2))
    return (1 - (2 * both + 1) / (probability.sum((0, 2)) + target.sum((0, 2)) + 1)).mean()


def teach_sentences(contrast: DenseContrast, settings: ClipSettings) -> None:
    """
    Teach the text tower which state and which material a sentence names, before there is any image.

    Every state and material has a direction of its own, and every defect a part of the abnormal one. Otherwise the way
    from normal to abnormal, which the patches are to follow, turns for as long as they learn it.
    """
    model, seed = contrast.model, contrast.pool.seed
    states = {"normal": NORMAL_STATES, "abnormal": ABNORMAL_STATES, **{kind: DEFECT_STATES[kind] for kind in KINDS}}
    directions, _ = torch.linalg.qr(torch.randn(settings.projection_dim, settings.projection_dim))
    of_state = dict(zip(states, directions, strict=False))
    of_noun = dict(zip(contrast.nouns, directions[len(states) :], strict=False))
    for kind in KINDS:
        of_state[kind] = F.normalize(of_state["abnormal"] + of_state[kind], dim=0)
    tower = [*model.text_model.parameters(), *model.text_projection.parameters()]
    optimizer = torch.optim.AdamW(tower, lr=SENTENCE_LEARNING_RATE)
    for step in range(settings.sentence_steps):
        left = 1 - step / settings.sentence_steps
        for group in optimizer.param_groups:
            group["lr"] = SENTENCE_LEARNING_RATE * min((step + 1) / 50, 2 * left, 1)
        rng = np.random.default_rng((seed, step, 100))
        names = [str(name) for name in rng.choice(list(states), SENTENCES)]
        nouns = [str(name) for name in rng.choice(contrast.nouns, SENTENCES)]
        text = contrast.embed([random_sentence(rng, states[a], b) for a, b in zip(names, nouns, strict=True)])
        target = torch.stack([0.8 * of_state[a] + 0.6 * of_noun[b] for a, b in zip(names, nouns, strict=True)])
        loss = (1 - F.cosine_similarity(text, target)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"sentences: cosine to their directions {1 - loss.item():.4f}", flush=True)


def train_clip(
    settings: ClipSettings,
    tokenizer: CLIPTokenizer,
    pool: ScenePool,
    folder: Path,
    start_from: Path | None = None,
    *,
    fast: bool = False,
) -> CLIPModel:
    """
    Train the stage (or go on with it) and save the network to `folder`/clip.

    Args:
        settings: The choices.
        tokenizer: The tokenizer.
        pool: Where the images come from.
        folder: Folder of the state and the result.
        start_from: Folder of an earlier run, whose network is trained further.
        fast: Compute in bfloat16, with compiled blocks.
    """
    torch.manual_seed(pool.seed)
    state_path = folder / "clip_state.pt"
    model = CLIPModel(clip_config(settings, tokenizer))
    contrast = DenseContrast(model, tokenizer, pool, settings)
    if start_from is not None:
        model.load_state_dict(CLIPModel.from_pretrained(start_from / "clip").state_dict())
    elif not state_path.exists():
        compare_with_image(model.vision_model, patch_filters(pool, PATCH.stop, settings.patch_size, CLIP_PIXELS))
        teach_sentences(contrast, settings)
    nn.Module.to(model, pool.device)
    if fast:
        # with heads as narrow as these, the compiled softmax and products take half the time of the fused kernel's
        model.set_attn_implementation("eager")
        model.vision_model.encoder.compile(dynamic=False)
    run_steps(
        model,
        contrast,
        first_step=0,
        last_step=settings.schedule[-1][0],
        num_steps=settings.schedule[-1][0],
        peak=settings.peak_learning_rate,
        warmup=settings.warmup,
        state_path=state_path,
        save_every=settings.save_steps,
        fast=fast,
    )
    model.save_pretrained(folder / "clip")
    return model
