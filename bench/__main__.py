"""`make bench`: measure every budget on this machine and print them as a table.

Exit status 0 when everything was measured, also when a budget is missed: the table says so. 1 when a row could not be
measured.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import time
import traceback
from pathlib import Path

from bench import report, rows
from bench.lab import BenchFailed, Lab
from tests.support.services import Session

RESULTS = Path(__file__).parent / "results.md"


def main() -> int:
    names = [m.name for m in pkgutil.iter_modules(rows.__path__)]
    modules = sorted((importlib.import_module(f"bench.rows.{name}") for name in names), key=lambda m: m.ORDER)
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="rows whose name contains this: " + ", ".join(names))
    only = parser.parse_args().only
    chosen = [m for m in modules if only is None or only in m.__name__.rpartition(".")[2]]
    if not chosen:
        parser.error(f"no row is called like {only!r}")
    where = report.machine()
    report.log(f"on {where}")
    began = time.monotonic()
    lines: list[report.Line] = []
    failed = False
    session = Session()
    try:
        for module in chosen:
            name = module.__name__.rpartition(".")[2]
            report.log(f"... {name}: {str(module.__doc__).splitlines()[0]}")
            lab = Lab(session.dir / name)
            started = time.monotonic()
            try:
                measured = module.measure(lab)
            except Exception as e:
                failed = True
                report.log(f"!!! {name} could not be measured: {e}")
                if not isinstance(e, BenchFailed):
                    traceback.print_exc()
                for title, text in lab.farm.logs():
                    report.log(f"--- {title}\n{text[-3000:]}")
            else:
                lines += measured
                for line in measured:
                    report.log(f"    {line.what}: {line.ours} ({'met' if line.ok else 'MISSED'}; budget {line.budget})")
                report.log(f"    took {time.monotonic() - started:.0f} s")
            finally:
                lab.close()
    finally:
        session.close()
    print(report.table(lines))
    if only is None and not failed:
        RESULTS.write_text(report.document(lines, where, seconds=time.monotonic() - began))
        report.log(f"written to {os.path.relpath(RESULTS)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
