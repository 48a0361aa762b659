# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Runs transformers' own common tests on a tiny ClipSAM.

The wheel of transformers holds no tests. Its source distribution holds the common ones, so that of the installed
version is fetched from the package index and unpacked in a temporary folder; nothing of it is copied to this
repository. `clipsam_upstream.py` has the test classes, `stand_ins.py` what the source distribution lacks.

    python tests/upstream/run.py [pytest's options]
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# What transformers' tests import and neither this package nor its extras need.
TEST_REQUIREMENTS = ("parameterized==0.9.0",)


def pip_command() -> list[str]:
    """The pip of this environment, or one from outside that works on it: an environment may have none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    pip = shutil.which("pip")
    if pip is None:
        raise SystemExit("pip is needed to fetch transformers' source distribution, but there is none.")
    return [pip, "--python", sys.executable]


def fetch_transformers_tests(folder: Path) -> Path:
    """Unpacks the source distribution of the installed transformers.

    Args:
        folder: An empty folder for the archive and its content.

    Returns:
        The folder that `import tests.test_modeling_common` must find on its path.

    Raises:
        SystemExit: If the source distribution of this version holds no common tests.
    """
    requirement = f"transformers=={transformers.__version__}"
    options = ["--quiet", "--no-deps", "--no-binary", "transformers", "--dest", os.fspath(folder)]
    subprocess.run([*pip_command(), "download", *options, requirement], check=True)

    (archive,) = folder.glob("transformers-*.tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    if not (unpacked / "tests" / "test_modeling_common.py").is_file():
        raise SystemExit(f"The source distribution of {requirement} holds no tests/test_modeling_common.py.")
    # Left out of the archive because it is empty; with it, `tests` cannot mean this repository's folder
    (unpacked / "tests" / "__init__.py").touch()
    return unpacked


def main(pytest_options: list[str]) -> int:
    """Fetches, installs and runs; returns pytest's exit status."""
    with tempfile.TemporaryDirectory(prefix="clipsam_hf_upstream_") as name:
        folder = Path(name)
        downloads, packages = folder / "downloads", folder / "packages"
        downloads.mkdir()
        tests = fetch_transformers_tests(downloads)
        install = ["install", "--quiet", "--no-deps", "--target", os.fspath(packages), *TEST_REQUIREMENTS]
        subprocess.run([*pip_command(), *install], check=True)

        paths = [os.fspath(path) for path in (tests, packages, HERE, ROOT / "src")]
        # This repository's settings would turn warnings of transformers' own tests into errors: hence no settings file
        settings = ["-c", os.devnull, "--rootdir", os.fspath(ROOT), "-p", "no:cacheprovider", "-p", "stand_ins"]
        # Their markers are registered in a settings file that the source distribution lacks
        settings += ["-W", "ignore::pytest.PytestUnknownMarkWarning", "--timeout", "300", "-rsfE", "-q"]
        command = [sys.executable, "-m", "pytest", *settings, *pytest_options, os.fspath(HERE / "clipsam_upstream.py")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
