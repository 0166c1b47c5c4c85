# SPDX-License-Identifier: Apache-2.0
"""The golden frames of tests/conformance/vectors, read by the Python codec as C++ reads them."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from siftd._wire import codec

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = ROOT / "tests" / "conformance"
sys.path.insert(0, str(CONFORMANCE))

import coin  # noqa: E402
import make_vectors  # noqa: E402

Vector = dict[str, Any]


def read(name: str) -> Any:
    return json.loads((CONFORMANCE / "vectors" / name).read_text())


VALID: list[Vector] = read("valid.json")
MALFORMED: list[Vector] = read("malformed.json")
COIN: dict[str, list[Vector]] = read("coin.json")


def by_name(vector: Vector) -> str:
    return str(vector["name"])


def frames_of(vector: Vector) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in vector["frames"]]


def header_of(vector: Vector) -> Any:
    cls = getattr(codec.wire_pb2, vector["message"])
    return text_format.Parse(vector["header"], cls())


@pytest.mark.parametrize("vector", VALID, ids=by_name)
def test_valid_frames_say_what_their_text_says(vector: Vector) -> None:
    frames = frames_of(vector)
    message, payload = codec.decode(frames)
    message.DiscardUnknownFields()
    assert message.SerializeToString() == header_of(vector).SerializeToString()
    assert [bytes(frame) for frame in payload] == frames[2:]


@pytest.mark.parametrize("vector", [v for v in VALID if v["canonical"]], ids=by_name)
def test_encode_gives_the_golden_frames(vector: Vector) -> None:
    frames = frames_of(vector)
    again = codec.encode(header_of(vector), frames[2:])
    assert [bytes(frame) for frame in again] == frames


@pytest.mark.parametrize("vector", MALFORMED, ids=by_name)
def test_malformed_frames_are_refused_by_the_field_at_fault(vector: Vector) -> None:
    with pytest.raises(codec.WireError) as caught:
        codec.decode(frames_of(vector))
    assert caught.value.field == vector["field"]
    assert str(caught.value).startswith(f"{vector['field']} is ")


def test_vectors_are_what_the_script_writes() -> None:
    for name, text in make_vectors.files().items():
        assert (CONFORMANCE / "vectors" / name).read_text() == text, f"run make_vectors.py: {name}"


def test_every_message_type_has_a_vector() -> None:
    assert {v["message"] for v in VALID} == {cls.DESCRIPTOR.name for cls in codec.TYPES}


def fields_set(message: Any, found: set[str]) -> None:
    for field, value in message.ListFields():
        found.add(field.full_name)
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        repeated = not hasattr(value, "ListFields")
        for part in value if repeated else [value]:
            fields_set(part, found)


def test_every_field_of_the_protocol_is_set_in_a_canonical_vector() -> None:
    """With the C++ test that encodes them byte for byte: no codec forgets a field."""
    found: set[str] = set()
    for vector in VALID:
        if vector["canonical"]:
            fields_set(header_of(vector), found)
    files = codec.wire_pb2, codec.policy_pb2
    descriptors = [m for f in files for m in f.DESCRIPTOR.message_types_by_name.values()]
    every = {field.full_name for message in descriptors for field in message.fields}
    read_only = {"siftd.v1.LossCdfPolicy.keep"}  # encoders write the beta that it means
    assert every - found == read_only


def test_philox_gives_random123s_known_answers() -> None:
    for vector in COIN["philox4x32_10"]:
        counter, key, words = (
            tuple(int(word, 16) for word in vector[name].split()) for name in ("counter", "key", "words")
        )
        assert coin.philox4x32_10(counter, key) == words


def test_coin_falls_as_the_vectors_say() -> None:
    for vector in COIN["coin"]:
        u = coin.coin(int(vector["seed"]), vector["epoch"], int(vector["sample_id"]), vector["occurrence"])
        assert u == vector["u"]
        assert u * 2.0**53 == int(vector["u_times_2_53"])


def damaged(frames: list[bytes], rng: random.Random) -> list[bytes]:
    frames = list(frames)
    for _ in range(rng.randint(1, 4)):
        if not frames:
            break
        i = rng.randrange(len(frames))
        data = bytearray(frames[i])
        at = rng.randint(0, len(data))
        match rng.randrange(6):
            case 0:
                del frames[i]
                continue
            case 1:
                frames.insert(i, frames[i])
                continue
            case 2:
                data.insert(at, rng.randrange(256))
            case 3:
                del data[at:]
            case _ if at < len(data):
                data[at] = rng.randrange(256)
        frames[i] = bytes(data)
    return frames


@pytest.mark.parametrize("vector", VALID, ids=by_name)
def test_damaged_frames_yield_a_message_or_a_wire_error(vector: Vector) -> None:
    rng = random.Random(20261124)
    outcomes = set()
    for _ in range(300):
        try:
            message, payload = codec.decode(damaged(frames_of(vector), rng))
        except codec.WireError:
            outcomes.add("refused")
        else:
            outcomes.add("taken")
            codec.decode(codec.encode(message, payload))
    assert "refused" in outcomes


def hexdump_bytes(block: str) -> bytes:
    """The bytes of a dump with lines "0010  53 46 ...  |text|"."""
    found = bytearray()
    for line in block.strip().splitlines():
        match = re.match(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)", line)
        assert match, line
        found += bytes.fromhex(match[1])
    return bytes(found)


@pytest.mark.parametrize("name", ["hello_loader", "candidates_small"])
def test_the_worked_example_in_the_specification_is_exact(name: str) -> None:
    text = (ROOT / "proto" / "README.md").read_text()
    section = text.split(f"<!-- vector: {name} -->", 1)[1].split("<!-- end -->", 1)[0]
    dumps = [hexdump_bytes(block) for block in re.findall(r"```text\n(.*?)```", section, re.S)]
    vector = next(v for v in VALID if v["name"] == name)
    assert dumps == frames_of(vector)


def test_the_limits_table_in_the_specification_is_exact() -> None:
    text = (ROOT / "proto" / "README.md").read_text()
    header = (ROOT / "pipeline" / "wire" / "limits.h").read_text()
    for name in codec.LIMITS.__dataclass_fields__:
        value = getattr(codec.LIMITS, name)
        assert re.search(rf"\| `{name}` \| {value:,} \|", text), f"{name} = {value:,}"
        cpp = (
            "kM"
            + ("" if name.startswith("m") else "ax")
            + "".join(part.capitalize() for part in name.split("_"))[1 if name.startswith("m") else 0 :]
        )
        found = re.search(rf"\b{cpp} = (\w+)(?: << (\d+))?;", header)
        assert found, cpp
        assert int(found[1].rstrip("u")) << int(found[2] or 0) == value, cpp


def test_the_coin_vectors_in_the_specification_are_exact() -> None:
    text = (ROOT / "proto" / "README.md").read_text()
    for vector in COIN["coin"]:
        fields = "seed", "epoch", "sample_id", "occurrence", "words", "u_times_2_53"
        row = " | ".join(str(vector[name]) for name in fields)
        assert f"| {row} |" in text, row
