"""The long hunt: `make fuzz SECONDS=600 SEED=7`. Ends with status 1 when something was found."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from dbward.domain.model import Dialect
from tests.fuzz.hunt import forever, hunt, maker
from tests.support import services

BATCH = 5_000
"""Texts of one dialect at a time."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="when to stop (60)")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the texts; a new one by default")
    parser.add_argument("--dialect", type=Dialect, choices=list(Dialect), help="only this one")
    parser.add_argument("--only", type=int, metavar="N", help="judge the text of this number and no other")
    args = parser.parse_args()
    dialects = [args.dialect] if args.dialect else list(Dialect)
    session = services.Session()
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers = {
                Dialect.POSTGRESQL: services.own_postgres,
                Dialect.MYSQL: services.own_mariadb,
            }
            makers = {
                dialect: maker(
                    dialect, stack.enter_context(servers[dialect]()) if dialect in servers else None, directory
                )
                for dialect in dialects
            }
            end = time.monotonic() + args.seconds
            failed = False
            for numbers in forever(0, BATCH) if args.only is None else [range(args.only, args.only + 1)]:
                for dialect in dialects:
                    bag = hunt(makers[dialect], dialect, args.seed, numbers)
                    failed |= bool(bag.findings)
                    print(
                        f"{dialect} seed {args.seed} texts {numbers.start} to {numbers.stop - 1}: "
                        f"{bag.reads} reads, {bag.ran} ran, {len(bag.findings)} findings",
                        *bag.findings,
                        sep="\n  ",
                        flush=True,
                    )
                if time.monotonic() >= end:
                    break
    finally:
        session.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
