# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
The text tower of `clipsam-small`, tuned against the locked vision tower.

Its losses, over the cached features of generated scenes: patches against sentences of states (what is damaged, and
how); images against captions (what they show); and, without images, the similarities of a sentence encoder over words,
and the demand that what "damaged" adds to a name is the same for every name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from small_features import CachedScenes, SceneCache
from small_scenes import KINDS
from small_words import STATES
from synthetic_words import TEMPLATES, fill, random_sentence
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionModel

from clipsam_hf.files import open_atomically


__all__ = ["LockedContrast", "TextSettings", "build_clip", "train_text"]

MAX_LOGIT_SCALE = float(np.log(100))
GROUPS = ("normal", "abnormal", *KINDS)


@dataclass(frozen=True)
class TextSettings:
    """Every choice of the stage."""

    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    projection_dim: int = 128
    num_steps: int = 1200
    batch_size: int = 24
    learning_rate: float = 1.5e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    words_per_step: int = 32
    state_names: int = 3
    kind_weight: float = 1.0
    caption_weight: float = 0.3
    teacher_weight: float = 10.0
    invariance_weight: float = 1.0
    save_steps: int = 100


def build_clip(vision: CLIPVisionModel, tokenizer: CLIPTokenizer, settings: TextSettings, *, seed: int) -> CLIPModel:
    """Return a CLIP of a finished vision tower, and a new text tower and new projections."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden_size,
        "intermediate_size": 4 * settings.hidden_size,
        "num_hidden_layers": settings.num_layers,
        "num_attention_heads": settings.num_heads,
        "hidden_act": "gelu",
        "projection_dim": settings.projection_dim,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    of_vision = {**vision.config.to_dict(), "projection_dim": settings.projection_dim}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=of_vision, projection_dim=settings.projection_dim))
    clip.vision_model.load_state_dict(vision.state_dict())
    clip.requires_grad_(False)
    for part in (clip.text_model, clip.text_projection, clip.visual_projection):
        part.requires_grad_(True)
    clip.logit_scale.requires_grad_(True)
    return clip


class LockedContrast:
    """
    The loss of the stage, as a function of the step.

    Args:
        clip: The network.
        tokenizer: Its tokenizer.
        scenes: The cached features; the last block's are used.
        names: What a photograph may be said to show.
        words: Common words, (words, teacher's embeddings (num_words, dim)).
        settings: The choices.
        seed: Of all draws.
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        scenes: SceneCache,
        names: list[str],
        words: tuple[list[str], Tensor],
        settings: TextSettings,
        seed: int,
    ) -> None:
        self.clip, self.tokenizer, self.scenes, self.names = clip, tokenizer, scenes, names
        self.words, self.settings, self.seed = words, settings, seed
        self.places = {word: place for place, word in enumerate(words[0])}

    def embed(self, sentences: list[str]) -> Tensor:
        """Return the normalised embeddings of sentences: (num_sentences, projection_dim)."""
        tokens = self.tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
        return F.normalize(self.clip.get_text_features(**tokens).pooler_output, dim=-1)

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a step and its parts."""
        rng = np.random.default_rng((self.seed, step, 201))
        options, scenes = (
            self.settings,
            self.scenes.draw(np.random.default_rng((self.seed, step, 202)), self.settings.batch_size),
        )
        texts = self.sentences(scenes, rng)
        embeds = self.embed([*texts["captions"], *texts["states"], *texts["words"]])
        captions, states, words = embeds.split([len(each) for each in texts.values()])
        states = states.unflatten(0, (options.state_names, len(GROUPS)))  # (names, groups, dim)

        # The last block's patches in the joint space
        norm, project = self.clip.vision_model.post_layernorm, self.clip.visual_projection
        tokens = scenes.features[:, -1].flatten(2).transpose(1, 2)  # (batch, patches, channels)
        projected = project(norm(tokens))
        patches, images = F.normalize(projected, dim=-1), F.normalize(projected.mean(1), dim=-1)

        self.clip.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        scale = self.clip.logit_scale.exp()
        beyond = states[:, 1:] - states[:, :1]  # (names, abnormal and kinds, dim)
        chosen = beyond[torch.from_numpy(rng.integers(options.state_names, size=len(images)))]
        logits = scale * torch.einsum("bpd,bkd->bkp", patches, chosen)
        parts = {
            "dense": self.dense_loss(logits[:, :1], scenes, kinds=False),
            "kinds": options.kind_weight * self.dense_loss(logits[:, 1:], scenes, kinds=True),
            "captions": options.caption_weight * caption_loss(scale * images @ captions.T, scenes.words),
            "teacher": options.teacher_weight * self.teacher_loss(words, texts["words"]),
            "invariance": options.invariance_weight * (beyond - beyond.mean(0)).square().sum(-1).mean(),
        }
        return sum(parts.values(), torch.zeros(())), {name: part.item() for name, part in parts.items()}

    def sentences(self, scenes: CachedScenes, rng: np.random.Generator) -> dict[str, list[str]]:
        """Draw the sentences of a step: captions, sets of states (all groups for each name), and words."""
        captions, options = [], self.settings
        for kinds, words in zip(scenes.kinds, scenes.words, strict=True):
            present = [KINDS[kind - 1] for kind in kinds.unique().tolist() if kind > 0]
            group = present[rng.integers(len(present))] if present else "normal"
            captions.append(random_sentence(rng, STATES[group], words))
        # One half of the names is anything: what "damaged" adds must not depend on the name
        names = [self.names[rng.integers(len(self.names))] for _ in range(options.state_names - 1)]
        names.append(self.words[0][rng.integers(len(self.words[0]))])
        states = []
        for name in names:
            template = TEMPLATES[rng.integers(len(TEMPLATES))]
            states += [fill(template, fill(STATES[group][rng.integers(len(STATES[group]))], name)) for group in GROUPS]
        places = rng.choice(len(self.words[0]), options.words_per_step, replace=False)
        return {"captions": captions, "states": states, "words": [self.words[0][place] for place in places]}

    def teacher_loss(self, embeds: Tensor, words: list[str]) -> Tensor:
        """How far the similarities of words are from the teacher's."""
        wanted = self.words[1][[self.places[word] for word in words]].float()
        return F.mse_loss(embeds @ embeds.T, wanted @ wanted.T)

    def dense_loss(self, logits: Tensor, scenes: CachedScenes, *, kinds: bool) -> Tensor:
        """Balanced cross entropy of patches: (batch, questions, patches) against the share that is defective."""
        side = scenes.kinds.shape[-1] // scenes.features.shape[-1]
        if kinds:
            masks = F.one_hot(scenes.kinds.long(), 1 + len(KINDS)).permute(0, 3, 1, 2)[:, 1:]
        else:
            masks = (scenes.kinds > 0)[:, None]
        # a thin crack covers little of a patch and is to be seen all the same
        target = (2 * F.avg_pool2d(masks.float(), side).flatten(2)).clamp(max=1)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        abnormal = (entropy * target).sum() / target.sum().clamp(min=1)
        return abnormal + (entropy * (1 - target)).sum() / (1 - target).sum()


def caption_loss(logits: Tensor, words: list[str]) -> Tensor:
    """Contrast of images and captions, both ways; those that show the same are no opposites."""
    same = torch.tensor([[one == other for other in words] for one in words]) & ~torch.eye(
        len(words), dtype=torch.bool
    )
    logits = logits.masked_fill(same, -torch.inf)
    places = torch.arange(len(words))
    return (F.cross_entropy(logits, places) + F.cross_entropy(logits.T, places)) / 2


def train_text(clip: CLIPModel, loss: LockedContrast, settings: TextSettings, state_path: Path) -> CLIPModel:
    """
    Train what is not locked, or go on with it.

    Args:
        clip: The network, see [`build_clip`].
        loss: Its loss.
        settings: The choices.
        state_path: File of the state; a finished one is only loaded.
    """
    trained = {name: each for name, each in clip.named_parameters() if each.requires_grad}
    matrices = [each for each in trained.values() if each.ndim > 1]
    others = [each for each in trained.values() if each.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
    )
    step = load_state(state_path, trained, optimizer) if state_path.exists() else 0
    sums: dict[str, float] = {}
    while step < settings.num_steps:
        left = (settings.num_steps - step) / (0.4 * settings.num_steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * min((step + 1) / settings.warmup_steps, left, 1.0)
        value, figures = loss(step)
        if not torch.isfinite(value):
            raise FloatingPointError(f"The loss is {value.item()} at step {step}.")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
        optimizer.step()
        step += 1
        sums = {name: sums.get(name, 0.0) + figure for name, figure in figures.items()}
        if step % 25 == 0:
            print(f"step {step} " + " ".join(f"{name} {figure / 25:.4f}" for name, figure in sums.items()), flush=True)
            sums = {}
        if step % settings.save_steps == 0 or step == settings.num_steps:
            save_state(state_path, step, trained, optimizer)
    return clip.eval()


def save_state(path: Path, step: int, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Write weights, moments and step."""
    tensors = {"step": torch.tensor(step)}
    for name, parameter in trained.items():
        moments = optimizer.state[parameter]
        tensors |= {
            name: parameter.detach(),
            f"{name}.first": moments["exp_avg"],
            f"{name}.second": moments["exp_avg_sq"],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        file.write(save({name: each.contiguous() for name, each in tensors.items()}))


def load_state(path: Path, trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Take over what [`save_state`] wrote and return the step."""
    tensors = load_file(path)
    for name, parameter in trained.items():
        parameter.data.copy_(tensors[name])
        moments = {"exp_avg": tensors[f"{name}.first"], "exp_avg_sq": tensors[f"{name}.second"]}
        optimizer.state[parameter] = {"step": tensors["step"].float(), **moments}
    return int(tensors["step"])
