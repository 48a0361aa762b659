# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""docs/how-to/results-as-json.md: the schema that it shows is that of the pipeline's answers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.pipeline_clipsam import CALL_PARAMETERS


DOCUMENT = (Path(__file__).parents[1] / "docs" / "how-to" / "results-as-json.md").read_text(encoding="utf-8")
TYPES: dict[str, Any] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": float,
    "object": dict,
    "string": str,
}


def schema_of(name: str) -> dict[str, Any]:
    [text] = re.findall(rf"<!-- schema: {name} -->\n```json\n(.*?)```", DOCUMENT, re.DOTALL)
    schema: dict[str, Any] = json.loads(text)
    return schema


def problems(value: Any, schema: dict[str, Any], place: str = "answer") -> list[str]:
    """What the keywords of JSON Schema that the document uses have against a value."""
    found = []
    types = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if types and type(value) not in [TYPES[name] for name in types]:
        found.append(f"{place} is {value!r}, no {' or '.join(types)}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place} is {value!r}, none of {schema['enum']}")
    if type(value) in (int, float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(f"{place} is {value!r}, out of range")
    if isinstance(value, dict):
        found += [f"{place} lacks {name}" for name in schema["required"] if name not in value]
        found += [f"{place} has {name} too" for name in value if name not in schema["properties"]]
        for name in value.keys() & schema["properties"].keys():
            found += problems(value[name], schema["properties"][name], f"{place}.{name}")
    if isinstance(value, list):
        found += [problem for item in value for problem in problems(item, schema["items"], f"{place}[]")]
    return found


@pytest.fixture(scope="module")
def segmenter() -> Any:
    return pipeline("zero-shot-anomaly-segmentation", model=str(EMBEDDED_CHECKPOINT))  # type: ignore[call-overload]


@pytest.mark.parametrize("thresholds", [{"threshold": 0.01}, {"threshold": 0.01, "decision_threshold": 0.01}])
def test_answers_are_as_the_schema_says(segmenter: Any, thresholds: dict[str, float]) -> None:
    image = np.full((64, 96, 3), 180, np.uint8)
    image[24:32, 40:60] = 20
    photographs = [Image.fromarray(image), "missing.png"]
    answers = json.loads(
        json.dumps(segmenter(photographs, class_name="plate", as_json=True, on_error="skip", **thresholds))
    )
    # the embedded checkpoint has no decision threshold of its own
    assert answers[0]["label"] == ("anomalous" if "decision_threshold" in thresholds else None)
    assert answers[0]["regions"] and "error" in answers[1]
    assert [problems(answer, schema_of("answer")) for answer in answers] == [[], []]


def test_an_answer_that_is_not_as_the_schema_says_is_noticed(segmenter: Any) -> None:
    answer = json.loads(json.dumps(segmenter(Image.new("RGB", (32, 32)), class_name="plate", as_json=True)))
    assert problems({**answer, "score": 2.0, "label": "broken", "mask": 3, "more": None}, schema_of("answer")) != []
    del answer["regions"]
    assert problems(answer, schema_of("answer")) == ["answer lacks regions"]


def test_parameters_of_a_request_are_those_of_the_call() -> None:
    assert schema_of("request")["properties"]["parameters"]["properties"].keys() <= set(CALL_PARAMETERS)
