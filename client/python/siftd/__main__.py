# SPDX-License-Identifier: Apache-2.0
"""`python -m siftd`: what needs Python's eyes. Everything else is the program `siftd`."""

from __future__ import annotations

import argparse
import sys

from siftd.errors import SiftdError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m siftd", description=__doc__)
    commands = parser.add_subparsers(required=True)
    state = commands.add_parser("state", help="look into a trainer's saved state").add_subparsers(required=True)
    shown = state.add_parser(
        "show",
        help="print what is trained, per pass; tensors as types and shapes",
        epilog="example: python -m siftd state show checkpoint.pt",
    )
    shown.add_argument("file", help="of torch.save: loader.state_dict(), or a checkpoint that holds it")
    arguments = parser.parse_args()

    from siftd.state import show  # not before the arguments are known to be right: torch takes seconds

    try:
        print(show(arguments.file))
    except SiftdError as error:
        print(f"siftd state show: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
