# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the modules that transformers' common tests import and its source distribution lacks.

A pytest plugin, so that the modules exist before any test is imported. What is lost by it: the tests of the
exporters (`torch.export`, ONNX), and those of `generate`, which ClipSAM has not.
"""

import sys
from types import ModuleType
from typing import Any


def stand_in(name: str, **members: Any) -> None:
    """Makes `from name import member` work."""
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def url_to_local_path(url: str) -> str:
    """There is no local copy of anything: tests that need a download fail, and so must be skipped by name."""
    return url


stand_in("tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
stand_in("tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
# Only read for configurations without sub-configurations
stand_in("tests.utils.test_configuration_utils", config_common_kwargs={})
stand_in("fetch_hub_objects_for_ci", url_to_local_path=url_to_local_path)
