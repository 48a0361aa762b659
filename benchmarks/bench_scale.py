# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What ten million photographs cost, from the CPU time of a few: read, predict and judge, on one thread.

    python benchmarks/bench_scale.py [--photographs 20] [--million 10] [--cores 64] [--euros-per-core-hour PRICE]

The photographs are JPEGs of scikit-image's `brick` with its drawn crack, enlarged to each size. CPU time says what a
core takes however busy the machine is; hours of a machine follow from its number of cores, as processes share nothing
(if its memory keeps pace: a core is slower beside others that are busy).
"""

import argparse
import io
import time

import torch
from PIL import Image

from clipsam_hf.cli.options import load_model
from clipsam_hf.demo import draw_crack, sample_photograph
from clipsam_hf.prediction import predict_rows


SIZES = {"0.3 megapixels": (512, 512), "12 megapixels": (4000, 3000)}


def measure(model: object, processor: object, photograph: bytes, refine: bool, count: int) -> float:
    """CPU seconds of a photograph, the mean of so many after one that does not count."""
    options = {"class_name": "brick pavement", "refine": refine, "num_threads": 1}
    stream = ((str(number), photograph) for number in range(count + 1))
    rows = predict_rows(model, processor, stream, **options)  # type: ignore[arg-type]
    next(rows)
    start = time.process_time()
    assert all(row["error"] is None for row in rows)
    return (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the model inside the package")
    parser.add_argument("--photographs", type=int, default=20, help="of each row")
    parser.add_argument("--million", type=float, default=10, help="photographs of the table")
    parser.add_argument("--cores", type=int, default=64, help="of a machine")
    parser.add_argument("--euros-per-core-hour", type=float, help="your price; without it the table has none")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, processor, _ = load_model(args.model)
    price = args.euros_per_core_hour
    print(f"| photographs | CPU s each | core hours | hours on {args.cores} cores |{' euros |' if price else ''}")
    print("|---|---|---|---|" + ("---|" if price else ""))
    for size, shape in SIZES.items():
        file = io.BytesIO()
        draw_crack(sample_photograph())[0].resize(shape, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        for refine in (False, True):
            seconds = measure(model, processor, file.getvalue(), refine, args.photographs)
            hours = seconds * args.million * 1e6 / 3600
            name = f"{size}, {'refined' if refine else 'CLIP alone'}"
            cells = [name, f"{seconds:.3f}", f"{hours:,.0f}", f"{hours / args.cores:,.0f}"]
            print(f"| {' | '.join(cells + ([f'{hours * price:,.0f}'] if price else []))} |", flush=True)


if __name__ == "__main__":
    main()
