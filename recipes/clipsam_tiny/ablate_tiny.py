# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Test the paper's claims on a `clipsam-tiny`: UMCI without each of its parts, MMR with other prompts, masks and merges.

    python recipes/clipsam_tiny/ablate_tiny.py umci --model CHECKPOINT --pool POOL --validation_pool OTHER \
        --photographs cookie --output_dir runs/ablations

The parts: "umci" trains every variant anew on the frozen CLIP, from several seeds; "mmr" refines the checkpoint's own
rough maps in other ways; "size" squashes images to other sides, one or several; "stages" takes some of CLIP's stages;
"score" compares ways to score an image; "words" changes the texts. All are measured on generated images of another
seed and on whole sets of photographs, which the checkpoint must not have been trained on: the choices that follow from
the tables are made here.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate_tiny import TENSORS, Scores, build_similarity, embed_texts
from PIL import Image
from synthetic_pool import KINDS, Batch, ScenePool
from tiny_common import CLIP_PIXELS, SAM_PIXELS, normalise
from tiny_questions import CANDIDATES, TEXTS_PER_IMAGE, ask, choose
from tiny_umci import UmciBatches, UmciSettings
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped]

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.refinement_clipsam import score_map
from clipsam_hf.training import train_umci
from clipsam_hf.visualization import heat_map


__all__ = ["MMR_VARIANTS", "UMCI_VARIANTS", "main"]

UMCI_VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "without strip path": {"fused_features": ("original", "scale")},
    "without scale path": {"fused_features": ("original", "row", "column")},
    "without V_ori": {"fused_features": ("row", "column", "scale")},
    "V_ori alone": {"fused_features": ("original",)},
    "without language": {"constant_text": True},
    "text head": {"head": "text"},
    "several texts": {"several_texts": True},
    "several texts, text head": {"several_texts": True, "head": "text"},
}
# what a variant changes beside the configuration
TRAINING_CHANGES = ("constant_text", "several_texts")
MMR_VARIANTS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "points": {"prompt_type": "points"},
    "boxes": {"prompt_type": "box"},
    "boxes and points": {"prompt_type": "box_and_points"},
    "one mask": {"multimask_output": False},
    "three masks": {"multimask_output": True},
    "soft masks": {"mask_fusion": "soft"},
    "binary masks": {"mask_fusion": "binary"},
    "average": {"merge": "average"},
    "weighted by anomaly": {"merge": "anomaly_weighted"},
    "normalised sum": {"merge": "sum_norm"},
    "points, weighted by anomaly": {"prompt_type": "points", "merge": "anomaly_weighted"},
    "points, soft, weighted by anomaly": {
        "prompt_type": "points",
        "mask_fusion": "soft",
        "merge": "anomaly_weighted",
    },
    "points, soft": {"prompt_type": "points", "mask_fusion": "soft"},
    **{
        f"binarize_threshold {value}": {"binarize_threshold": value}
        for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    },
}
SIZES = (192, 256, 384, 512)
SEVERAL_SIZES = ((256, 384), (192, 256, 384), (256, 384, 512), (192, 256, 384, 512))
TOP_SHARES = (0.001, 0.01, 0.03, 0.1, 0.3)
TWO_KINDS = 200
SHOWN = 4
# One figure is a row of the tables: of each set, by its name
Figures = dict[str, dict[str, float]]


@dataclass
class Cached:
    """
    Images whose features are known.

    Args:
        batch: The images.
        class_name: What they show, for the prompts.
        stages: Per stage (num_images, hidden_size, height, width) float16.
        embeddings: SAM's, (num_images, channels, height, width) float16, if they were asked for.
    """

    batch: Batch
    class_name: str
    stages: tuple[torch.Tensor, ...]
    embeddings: torch.Tensor | None = None

    def rows(self, chosen: list[int]) -> tuple[torch.Tensor, ...]:
        """Return the stages of some images: each (len(chosen), hidden_size, height, width) float32."""
        return tuple(stage[chosen].float() for stage in self.stages)


class Bench:
    """
    A checkpoint and the images that it is measured on.

    Args:
        model: Folder of the checkpoint.
        pool: Folder of the scenes that it was trained on.
        validation_pool: Folder of scenes of another seed.
        photographs: Folders of data sets that it was not trained on.
        leave_out: Their class names, of which the pool is to show nothing.
        num_images: Number of generated images to measure.
    """

    def __init__(
        self,
        model: Path,
        pool: Path,
        validation_pool: Path,
        photographs: Sequence[Path],
        *,
        leave_out: Sequence[str],
        num_images: int,
    ) -> None:
        self.model = ClipSamForAnomalySegmentation.from_pretrained(model)
        self.processor = ClipSamProcessor.from_pretrained(model)
        self.training = ScenePool(pool, seed=0, leave_out=leave_out)
        self.validation = ScenePool(validation_pool, seed=1)
        self.folders, self.num_images = photographs, num_images

    @torch.no_grad()
    def cache(self, batch: Batch, class_name: str = "object", *, with_sam: bool = False) -> Cached:
        """Compute CLIP's stages of all images of a batch, and SAM's embeddings."""
        side = self.model.config.sam_config.vision_config.image_size
        stages, embeddings = [], []
        for images in tqdm(batch.images.split(8), desc=class_name, disable=None):
            pixels = normalise(images, CLIP_PIXELS)
            stages.append([stage.half() for stage in self.model.get_feature_maps(pixels)])
            if with_sam:
                seen = F.interpolate(images, size=(side, side), mode="bilinear")
                embeddings.append(self.model.get_image_embeddings(normalise(seen, SAM_PIXELS)).half())
        joined = tuple(torch.cat(stage) for stage in zip(*stages, strict=True))
        return Cached(batch, class_name, joined, torch.cat(embeddings) if with_sam else None)

    def sets(self, *, with_sam: bool = False) -> dict[str, Cached]:
        """Return the generated images and every set of photographs, by name."""
        side = self.model.config.image_size
        generated = self.validation.batch(0, first=0, count=self.num_images, size=side)
        found = {"generated": self.cache(generated, with_sam=with_sam)}
        for folder in self.folders:
            batch = read_photographs(folder, side)
            found[batch.words[0]] = self.cache(batch, batch.words[0], with_sam=with_sam)
        return found

    def texts(self, class_name: str) -> torch.Tensor:
        """Return the embeddings of both texts: (1, 2, projection_dim)."""
        inputs: Any = self.processor(text=class_name, **TENSORS)
        return self.model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"]).detach()


def read_photographs(folder: Path, side: int) -> Batch:
    """Squash all photographs of a set to squares."""
    images, masks, words = [], [], []
    for sample in AnomalyFolder(folder, split=None):
        picture = sample.load_image().resize((side, side), Image.Resampling.BICUBIC)
        truth = Image.fromarray(sample.load_mask().astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
        images.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
        masks.append(torch.from_numpy(np.array(truth)))
        words.append(sample.class_name)
    kinds = torch.stack(masks)
    return Batch(torch.stack(images), kinds, kinds, torch.zeros_like(kinds), words)


def train_variant(
    bench: Bench,
    texts: UmciBatches,
    cached: Cached,
    changes: dict[str, Any],
    *,
    seed: int,
    num_steps: int,
    count: int,
    learning_rate: float,
) -> ClipSamForAnomalySegmentation:
    """Train one UMCI on cached features, `count` pairs of image and texts a step."""
    fields = {name: value for name, value in changes.items() if name not in TRAINING_CHANGES}
    constant = texts.constant() if changes.get("constant_text") else None
    torch.manual_seed(seed)
    model = ClipSamForAnomalySegmentation(ClipSamConfig.from_dict({**bench.model.config.to_dict(), **fields}))
    model.clip, model.sam = bench.model.clip, bench.model.sam

    def batches(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step, 107))
        if changes.get("several_texts"):
            wanted = count // TEXTS_PER_IMAGE
            numbers = rng.integers(len(cached.batch.words), size=CANDIDATES * wanted).tolist()
            chosen = choose(cached.batch, numbers, wanted, rng)
            return ask(texts, cached.batch, chosen, cached.rows(chosen), rng)
        chosen = rng.integers(len(cached.batch.words), size=count).tolist()
        pairs = [texts.text_of(cached.batch, number, rng) for number in chosen]
        if constant is not None:
            pairs = [(constant, cached.batch.masks[number]) for number in chosen]
        return {
            "feature_maps": cached.rows(chosen),
            "text_embeds": torch.stack([text for text, _ in pairs]),
            "labels": torch.stack([mask for _, mask in pairs]).float(),
        }

    train_umci(model, batches, num_steps=num_steps, learning_rate=learning_rate, warmup_steps=num_steps // 10)
    return model.eval()


@torch.inference_mode()
def measure(
    model: ClipSamForAnomalySegmentation, cached: Cached, text_embeds: torch.Tensor, *, refine: bool = False
) -> dict[str, float]:
    """Return the figures of the rough map, or of the refined one."""
    side = model.config.sam_config.vision_config.image_size
    scores = Scores()
    for number, mask in enumerate(cached.batch.masks.numpy()):
        inputs: dict[str, Any] = {"feature_maps": cached.rows([number]), "text_embeds": text_embeds}
        if refine and cached.embeddings is not None:
            inputs["image_embeddings"] = cached.embeddings[number, None].float()
            inputs["reshaped_input_sizes"] = torch.tensor([[side, side]])
        scores.update(model(**inputs).anomaly_map[0].numpy(), mask)
    figures = scores.compute()
    return {name: figures[name] for name in ("pixel AUROC", "pixel AP", "pixel F1-max", "image AUROC")}


def two_kinds(bench: Bench) -> Cached:
    """Return generated images with two kinds of defect each."""
    side, found = bench.model.config.image_size, []
    for step in range(40):
        batch = bench.validation.batch(1000 + step, first=64 * step, count=64, size=side)
        found += [(batch, number) for number in range(64) if len(batch.present(number)) == 2]
        if len(found) >= TWO_KINDS:
            break
    if len(found) < TWO_KINDS:
        raise ValueError(f"The validation pool gives only {len(found)} images with two kinds of defect.")
    found = found[:TWO_KINDS]
    fields = ("images", "kinds", "parts", "objects")
    planes = {field: torch.stack([getattr(batch, field)[number] for batch, number in found]) for field in fields}
    return bench.cache(Batch(**planes, words=[batch.words[number] for batch, number in found]))


@torch.inference_mode()
def measure_steering(
    model: ClipSamForAnomalySegmentation, cached: Cached, naming: Callable[[str], torch.Tensor]
) -> dict[str, float]:
    """
    Return how well a text that names one of the two kinds of defect in an image ranks its pixels above the other's.

    The AUROC between the pixels of the two defects, the mean over all images: when the first of the two kinds (by the
    alphabet) is named, when the second is, and the mean of both.

    Args:
        model: The model, whose rough map is measured.
        cached: Images with two kinds of defect each.
        naming: The texts of a kind, (2, projection_dim).
    """
    found: list[list[float]] = [[], []]
    for number in range(len(cached.batch.words)):
        present = cached.batch.present(number)
        kinds = cached.batch.kinds[number].numpy()
        for direction, (named, other) in zip(found, (present, present[::-1]), strict=True):
            output = model(feature_maps=cached.rows([number]), text_embeds=naming(named)[None])
            values = output.rough_anomaly_map[0].numpy()
            inside, outside = (values[kinds == KINDS.index(kind) + 1] for kind in (named, other))
            direction.append(rank_probability(inside, outside))
    first, second = (float(np.mean(direction)) for direction in found)
    return {"AUROC": (first + second) / 2, "first named": first, "second named": second}


def rank_probability(above: np.ndarray, below: np.ndarray) -> float:
    """Return the probability that a value of the first kind is greater, ties counting half: the AUROC."""
    ordered = np.sort(below)
    less, not_more = np.searchsorted(ordered, above, "left"), np.searchsorted(ordered, above, "right")
    return float((less + not_more).mean() / 2 / len(below))


def summarise(rows: list[Figures]) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard deviation over the seeds of every figure of every set."""
    return {
        each: {
            name: [float(f([row[each][name] for row in rows])) for f in (np.mean, np.std)] for name in rows[0][each]
        }
        for each in rows[0]
    }


def draw_maps(sets: dict[str, Cached], maps: dict[str, list[np.ndarray]]) -> Image.Image:
    """Put photographs, their truth and every variant's maps side by side, in the order of `shown`."""
    rows = []
    for place, (cached, number) in enumerate(shown(sets)):
        photograph = Image.fromarray((cached.batch.images[number] * 255).byte().permute(1, 2, 0).numpy())
        cells = [photograph, heat_map(cached.batch.masks[number].numpy().astype(float))]
        cells += [heat_map(each[place]) for each in maps.values()]
        rows.append(np.concatenate([np.asarray(cell.resize((160, 160))) for cell in cells], axis=1))
    return Image.fromarray(np.concatenate(rows))


def shown(sets: dict[str, Cached]) -> list[tuple[Cached, int]]:
    """Return a few defective images of each set, evenly spread over it."""
    chosen = []
    for cached in sets.values():
        defective = cached.batch.masks.flatten(1).any(1).nonzero()[:, 0].tolist()
        chosen += [(cached, defective[len(defective) * place // SHOWN]) for place in range(SHOWN)]
    return chosen


def ablate_umci(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure every variant of UMCI; the similarity localizer and the checkpoint's own UMCI beside them."""
    texts = UmciBatches(bench.model, bench.processor.tokenizer, bench.training, UmciSettings())
    seen = bench.training.batch(40_000_000, first=0, count=arguments.num_training_images, size=arguments.size)
    cached, sets, pairs = bench.cache(seen), bench.sets(), two_kinds(bench)

    def figures(model: ClipSamForAnomalySegmentation, changes: dict[str, Any]) -> Figures:
        constant = changes.get("constant_text")
        rows = {
            name: measure(model, each, texts.constant()[None] if constant else bench.texts(each.class_name))
            for name, each in sets.items()
        }
        return rows if constant else {**rows, "two kinds": measure_steering(model, pairs, texts.naming)}

    results: dict[str, Any] = {
        "similarity": figures(build_similarity(bench.model), {}),
        "the checkpoint's UMCI": figures(bench.model, {}),
    }
    print(json.dumps(results), flush=True)
    options: dict[str, Any] = {
        "num_steps": arguments.num_steps,
        "count": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
    }
    maps: dict[str, list[np.ndarray]] = {}
    for name in arguments.variants or UMCI_VARIANTS:
        changes, rows = UMCI_VARIANTS[name], []
        for seed in range(arguments.num_seeds):
            model = train_variant(bench, texts, cached, changes, seed=seed, **options)
            rows.append(figures(model, changes))
            print(name, seed, json.dumps(rows[-1]), flush=True)
        results[name] = summarise(rows)
        with torch.inference_mode():
            for each, number in shown(sets):
                pair = texts.constant()[None] if changes.get("constant_text") else bench.texts(each.class_name)
                output = model(feature_maps=each.rows([number]), text_embeds=pair)
                maps.setdefault(name, []).append(output.rough_anomaly_map[0].numpy())
    draw_maps(sets, maps).save(arguments.output_dir / "umci.png")
    return results


def ablate_mmr(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough maps and every way to refine them."""
    sets, config = bench.sets(with_sam=True), bench.model.config
    texts = {name: bench.texts(each.class_name) for name, each in sets.items()}
    results: dict[str, Any] = {"rough": {name: measure(bench.model, sets[name], texts[name]) for name in sets}}
    print("rough", json.dumps(results["rough"]), flush=True)
    for variant in arguments.variants or MMR_VARIANTS:
        changes = MMR_VARIANTS[variant]
        before = {name: getattr(config, name) for name in changes}
        for name, value in changes.items():
            setattr(config, name, value)
        results[variant] = {name: measure(bench.model, sets[name], texts[name], refine=True) for name in sets}
        for name, value in before.items():
            setattr(config, name, value)
        print(variant, json.dumps(results[variant]), flush=True)
    return results


@torch.inference_mode()
def ablate_size(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough map of images squashed to other sides, and means of several, against masks of the largest."""
    largest, results = max(SIZES), dict[str, Any]()
    subsets = [*((side,) for side in SIZES), *SEVERAL_SIZES]
    generated = bench.validation.batch(0, first=0, count=bench.num_images, size=largest)
    photographs = [read_photographs(folder, largest) for folder in bench.folders]
    for name, batch in {"generated": generated, **{batch.words[0]: batch for batch in photographs}}.items():
        text_embeds = bench.texts("object" if batch is generated else name)
        scores = {sides: Scores() for sides in subsets}
        for image, mask in zip(tqdm(batch.images, desc=name, disable=None), batch.masks.numpy(), strict=True):
            maps = {}
            for side in SIZES:
                resized = F.interpolate(image[None], (side, side), mode="bicubic", antialias=True)
                stages = bench.model.get_feature_maps(normalise(resized, CLIP_PIXELS))
                output = bench.model(feature_maps=stages, text_embeds=text_embeds)
                maps[side] = F.interpolate(output.rough_anomaly_map[None], mask.shape, mode="bilinear")[0, 0]
            for sides, score in scores.items():
                score.update(torch.stack([maps[side] for side in sides]).mean(0).numpy(), mask)
        results[name] = {" + ".join(map(str, sides)): score.compute() for sides, score in scores.items()}
        print(name, json.dumps(results[name]), flush=True)
    return results


@torch.inference_mode()
def ablate_stages(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough map of single stages and of the last few: every stage has a UMCI of its own."""
    layers, results = bench.model.config.feature_layers, {}
    places = range(len(layers))
    subsets = list(dict.fromkeys([*((place,) for place in places), *(tuple(places[place:]) for place in places)]))
    for name, cached in bench.sets().items():
        text_embeds = bench.texts(cached.class_name)
        scores = {subset: Scores() for subset in subsets}
        for number, mask in enumerate(cached.batch.masks.numpy()):
            logits = bench.model(feature_maps=cached.rows([number]), text_embeds=text_embeds).logits[0]
            full = F.interpolate(logits, size=mask.shape, mode="bilinear", align_corners=False)
            maps = full.softmax(1)[:, 1]  # (num_stages, height, width)
            for subset, score in scores.items():
                score.update(maps[list(subset)].mean(0).numpy(), mask)
        results[name] = {
            " + ".join(str(layers[place]) for place in subset): score.compute() for subset, score in scores.items()
        }
        print(name, json.dumps(results[name]), flush=True)
    return results


@torch.inference_mode()
def ablate_score(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the ways to score an image: its AUROC by shares of the rough map's highest pixels, and by CLIP alone."""
    results: dict[str, Any] = {}
    for name, cached in bench.sets().items():
        truth = cached.batch.masks.flatten(1).any(1).numpy()
        if truth.all():
            continue
        text_embeds, scores = bench.texts(cached.class_name), dict[str, list[float]]()
        for number in range(len(truth)):
            rough = bench.model(feature_maps=cached.rows([number]), text_embeds=text_embeds).rough_anomaly_map
            for share in TOP_SHARES:
                scores.setdefault(f"highest {share:.1%}", []).append(score_map(rough, top_fraction=share).item())
            pixels = normalise(cached.batch.images[number, None], CLIP_PIXELS)
            image = bench.model.clip.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
            contrast = F.normalize(image, dim=-1) @ (text_embeds[0, 1] - text_embeds[0, 0])
            scores.setdefault("CLIP's image and texts", []).append(contrast.item())
        results[name] = {
            way: {"image AUROC": rank_probability(np.array(values)[truth], np.array(values)[~truth])}
            for way, values in scores.items()
        }
        print(name, json.dumps(results[name]), flush=True)
    return results


def ablate_words(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough map with other class names and meaningless texts, and how well the name of a kind steers."""
    texts = UmciBatches(bench.model, bench.processor.tokenizer, bench.training, UmciSettings())
    images = two_kinds(bench)
    results: dict[str, Any] = {
        "two kinds": {
            f"{localizer}, {against}": measure_steering(model, images, naming)
            for localizer, model in (("similarity", build_similarity(bench.model)), ("UMCI", bench.model))
            for against, naming in (("against normal", texts.naming), ("against other kinds", texts.against_others))
        }
    }
    print("two kinds", json.dumps(results["two kinds"]), flush=True)
    sets = bench.sets()
    names = [each.class_name for each in sets.values() if each.class_name != "object"]
    for name, each in sets.items():
        wrong = next(other for other in [*names, "candle"] if other != each.class_name)
        with torch.no_grad():
            pairs = embed_texts(bench.model, bench.processor, each.class_name)
        results[name] = {
            f"right: {each.class_name}": measure(bench.model, each, pairs[""]),
            f"wrong: {wrong}": measure(bench.model, each, bench.texts(wrong)),
            "absent: object": measure(bench.model, each, bench.texts("object")),
            "both texts normal": measure(bench.model, each, pairs[", both texts normal"]),
            "unrelated texts": measure(bench.model, each, pairs[", unrelated texts"]),
        }
        print(name, json.dumps(results[name]), flush=True)
    return results


PARTS: dict[str, Callable[[Bench, argparse.Namespace], dict[str, Any]]] = {
    "umci": ablate_umci,
    "mmr": ablate_mmr,
    "score": ablate_score,
    "size": ablate_size,
    "stages": ablate_stages,
    "words": ablate_words,
}


def main() -> None:
    """Run one part and write its figures to OUTPUT_DIR/PART.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--pool", type=Path, required=True, help="folder of the scenes to train on")
    parser.add_argument("--validation_pool", type=Path, required=True, help="folder of scenes of another seed")
    parser.add_argument("--photographs", type=Path, action="append", default=[], help="a data set; may be repeated")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--variants", nargs="+", help="some variants only")
    parser.add_argument("--leave_out", action="append", default=[], help="class name of a set that UMCI is not shown")
    parser.add_argument("--num_training_images", type=int, default=2048, help="images that UMCI is trained on")
    parser.add_argument("--size", type=int, default=128, help="their side in pixels")
    parser.add_argument("--num_images", type=int, default=240, help="generated images to measure")
    parser.add_argument("--num_steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=16, help="pairs of image and texts a step; a multiple of 4")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        arguments.model,
        arguments.pool,
        arguments.validation_pool,
        arguments.photographs,
        leave_out=arguments.leave_out,
        num_images=arguments.num_images,
    )
    results = {
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        **PARTS[arguments.part](bench, arguments),
    }
    (arguments.output_dir / f"{arguments.part}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
