# SPDX-License-Identifier: Apache-2.0
"""Writes tests/conformance/vectors/: golden frames, which every implementation must read alike.

    PYTHONPATH=client/python python tests/conformance/make_vectors.py [--check]

With --check it writes nothing and fails where a file differs from what it would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format

import coin
import malformed
import valid
from siftd._wire import codec

VECTORS = Path(__file__).parent / "vectors"

# Published known answers of Random123 for philox4x32-10: counter, key, words.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
# seed, epoch, sample_id, occurrence
COINS = [
    (0, 0, 0, 0),
    (42, 0, 0, 0),
    (42, 0, 1, 0),
    (42, 1, 0, 0),
    (42, 0, 0, 1),
    (42, 3, 49_999, 2),
    (0x0123456789ABCDEF, 7, 0xFEDCBA9876543210, 5),
    (2**64 - 1, 2**32 - 1, 2**64 - 1, 2**32 - 1),
]


def hexes(frames: Sequence[Any]) -> list[str]:
    return [bytes(frame).hex() for frame in frames]


def vector(name: str, message: Any, frames: Sequence[Any], canonical: bool) -> dict[str, Any]:
    """`canonical`: siftd's own encoders write exactly these bytes."""
    return {
        "name": name,
        "message": message.DESCRIPTOR.name,
        "canonical": canonical,
        "header": text_format.MessageToString(message, as_one_line=True),
        "frames": hexes(frames),
    }


def valid_vectors() -> list[dict[str, Any]]:
    rows = [
        vector(name, message, codec.encode(message, payload), True)
        for name, (message, payload) in valid.messages().items()
    ]
    for name, (header, message, payload) in valid.lenient().items():
        frames = malformed.framed(codec.TYPES[type(message)], header, *payload)
        rows.append(vector(name, message, frames, False))
    return rows


def malformed_vectors() -> list[dict[str, Any]]:
    return [
        {"name": name, "field": field, "frames": hexes(frames)} for name, (frames, field) in malformed.cases().items()
    ]


def hex_words(words: Sequence[int]) -> str:
    return " ".join(f"{x:08x}" for x in words)


def coin_vectors() -> dict[str, Any]:
    """64-bit numbers as text: many JSON readers hold 53 bits only."""
    answers = [{"counter": c, "key": k, "words": words} for c, k, words in KNOWN_ANSWERS]
    coins = []
    for seed, epoch, sample_id, occurrence in COINS:
        words = coin.words(seed, epoch, sample_id, occurrence)
        coins.append(
            {
                "seed": str(seed),
                "epoch": epoch,
                "sample_id": str(sample_id),
                "occurrence": occurrence,
                "words": hex_words(words),
                "u_times_2_53": str(coin.numerator(words)),
                "u": coin.coin(seed, epoch, sample_id, occurrence),
            }
        )
    return {"philox4x32_10": answers, "coin": coins}


def files() -> dict[str, str]:
    content = {
        "valid.json": valid_vectors(),
        "malformed.json": malformed_vectors(),
        "coin.json": coin_vectors(),
    }
    return {name: json.dumps(rows, indent=1) + "\n" for name, rows in content.items()}


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for name, text in files().items():
        path = VECTORS / name
        if not check:
            VECTORS.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        print(f"differs from make_vectors.py: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
