# SPDX-License-Identifier: Apache-2.0
"""Every #include against the floors: a folder includes only what is below it; each library has one home."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BELOW: dict[str, set[str]] = {
    "pipeline/base": set(),
    "pipeline/data": {"pipeline/base"},
    "pipeline/select": {"pipeline/base", "pipeline/data"},
    "pipeline/wire": {"pipeline/base", "pipeline/data"},
    "pipeline/model": {"pipeline/base", "pipeline/data"},
    "pipeline/delivery": {"pipeline/base", "pipeline/data"},
    "pipeline/graph": {"pipeline/base", "pipeline/data"},
    "pipeline/net": {"pipeline/base", "pipeline/data"},
    "worker": {
        "pipeline/base",
        "pipeline/data",
        "pipeline/select",
        "pipeline/wire",
        "pipeline/model",
        "pipeline/delivery",
        "pipeline/graph",
        "pipeline/net",
    },
    "client/cpp": {
        "pipeline/base",
        "pipeline/data",
        "pipeline/wire",
        "pipeline/delivery",
        "pipeline/net",
    },
}
BELOW["client/python/native"] = BELOW["client/cpp"] | {"client/cpp"}
BRIDGE = {"client/cpp/siftd/torch_bridge.h", "client/cpp/siftd/torch_bridge.cc"}

# Library -> (pattern of its headers, folders that may include them).
HOMES: dict[str, tuple[str, set[str]]] = {
    "oneTBB": (r"(oneapi/)?tbb/", {"pipeline/graph"}),
    "ZeroMQ": (r"zmq", {"pipeline/net"}),
    "LibTorch": (r"(torch|ATen|c10|caffe2)/", {"pipeline/model", "client/cpp"}),
    "protobuf": (r"(google/protobuf/|siftd/v1/)", {"pipeline/wire", "worker"}),
    "zlib": (r"zlib\.h", {"pipeline/wire"}),
    "libsodium": (r"sodium", {"pipeline/wire"}),
    "pybind11": (r"pybind11/", {"client/python/native"}),
    "CLI11": (r"CLI/", {"worker"}),
    "spdlog": (r"spdlog/", {"worker"}),
    "prometheus-cpp": (r"prometheus/", {"worker"}),
    "cpp-httplib": (r"httplib\.h", {"worker"}),
}

# The few files of a home's guest: versions are read off headers; the config reader; the torch bridge.
GUESTS: dict[str, set[str]] = {
    "protobuf": {"worker"},
    "LibTorch": BRIDGE,
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)


def folder_of(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    return max((f for f in BELOW if relative.startswith(f + "/")), key=len)


def sources() -> list[Path]:
    files = [
        p
        for folder in BELOW
        for p in (ROOT / folder).rglob("*")
        if p.suffix in {".h", ".cc"} and "build" not in p.parts
    ]
    assert files, "no source was found: the test looks in the wrong place"
    return sorted(files)


def offences(folder: str, relative: str, text: str) -> list[str]:
    found = []
    for _, name in INCLUDE.findall(text):
        target = next((f for f in BELOW if name.startswith(f + "/")), None)
        below = BELOW[folder] | ({"pipeline/model"} if relative in BRIDGE else set())
        if target is not None and target != folder and target not in below:
            found.append(f"{relative} includes {name}: {folder} may not include {target}")
        for library, (pattern, homes) in HOMES.items():
            if not re.match(pattern, name):
                continue
            if folder not in homes:
                found.append(f"{relative} includes {name}: {library} lives in {sorted(homes)}")
            elif folder == "client/cpp" and relative not in GUESTS.get(library, {relative}):
                found.append(f"{relative} includes {name}: only the torch bridge may")
    return found


def test_every_include_is_of_a_lower_floor() -> None:
    found = [
        o for path in sources() for o in offences(folder_of(path), path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not found, "\n".join(found)


def test_libtorch_and_protobuf_never_meet_in_one_file() -> None:
    for path in sources():
        names = [name for _, name in INCLUDE.findall(path.read_text())]
        torch = any(re.match(HOMES["LibTorch"][0], n) for n in names)
        protobuf = any(re.match(HOMES["protobuf"][0], n) for n in names)
        assert not (torch and protobuf), path


@pytest.mark.parametrize(
    ("folder", "include"),
    [
        ("pipeline/base", '#include "pipeline/data/tensor.h"'),
        ("pipeline/graph", '#include "pipeline/net/router_endpoint.h"'),
        ("pipeline/select", "#include <torch/script.h>"),
        ("pipeline/delivery", "#include <zmq.hpp>"),
        ("client/cpp", "#include <torch/script.h>"),
        ("client/cpp", '#include "pipeline/model/scorer.h"'),
        ("client/cpp", "#include <zmq.hpp>"),
    ],
)
def test_an_offence_is_found(folder: str, include: str) -> None:
    assert offences(folder, f"{folder}/x.cc", include)
