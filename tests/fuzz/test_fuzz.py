# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes of strangers are read or properly refused. `CLIPSAM_FUZZ_EXAMPLES=20000` looks longer, at other examples."""

import json
import os
from typing import Any

import pytest
from fuzz_targets import SEPARATOR, TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


EXAMPLES = int(os.environ.get("CLIPSAM_FUZZ_EXAMPLES", "0"))
"""Of each target; without it few, and the same ones in every run."""

SETTINGS = settings(
    max_examples=EXAMPLES or 20,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# What readers stumble over
WORDS = [
    b"", b"\0", b"\xff", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff", b"../", b"/etc/passwd", b"nan", b"1e999", b"-1", b"null", b"{}", b"[]", b"\xed\xa0\x80",
    b'"', b"\n", b"[" * 100_000, b"9" * 5000, b"a" * 200_000,
]  # fmt: skip

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["../x", "/etc/passwd", "\ud800", "a" * 300, 2**63, -1, 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@st.composite
def mutated_bytes(draw: Any, seeds: Any) -> bytes:
    """Replaces, inserts, cuts out and repeats parts of a valid example."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        # Headers come first
        start = start % 64 if draw(st.booleans()) else start
        end = start + draw(st.sampled_from([0, 1, 2, 4, 16, len(data)]))
        data = data[:start] + draw(st.sampled_from(WORDS) | st.binary(max_size=8)) + data[end:]
    return data


@st.composite
def mutated_json(draw: Any, seeds: Any) -> bytes:
    """Replaces or removes values anywhere in the JSON of a valid example."""
    parts = draw(st.sampled_from(seeds)).split(SEPARATOR)
    number = draw(st.integers(0, len(parts) - 1))
    content = json.loads(parts[number])
    for _ in range(draw(st.integers(1, 3))):
        place, steps = content, draw(st.integers(0, 3))
        while place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(keys))
            if steps == 0 or not isinstance(place[key], (dict, list)):
                if draw(st.booleans()):
                    place[key] = draw(VALUES)
                else:
                    del place[key]
                break
            place, steps = place[key], steps - 1
    return SEPARATOR.join([*parts[:number], json.dumps(content).encode(), *parts[number + 1 :]])


@pytest.mark.parametrize("name", list(TARGETS))
def test_seeds_are_read(name: str) -> None:
    """A fuzzer whose examples are all refused at once finds nothing."""
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)


@pytest.mark.timeout(0 if EXAMPLES else 60)
@pytest.mark.parametrize("name", list(TARGETS))
def test_bytes_are_read_or_refused(name: str) -> None:
    check, seeds = TARGETS[name]

    @SETTINGS
    @given(mutated_bytes(seeds()) | st.sampled_from(WORDS) | st.binary(max_size=64))
    def search(data: bytes) -> None:
        check(data)

    search()


@pytest.mark.timeout(0 if EXAMPLES else 60)
@pytest.mark.parametrize("name", ["configuration", "data_set_table", "references", "used_output"])
def test_json_is_read_or_refused(name: str) -> None:
    check, seeds = TARGETS[name]

    @SETTINGS
    @given(mutated_json([seed for seed in seeds() if seed[:1] in (b"{", b"[")]))
    def search(data: bytes) -> None:
        check(data)

    search()
