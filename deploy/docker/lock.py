"""Write the lock files of the images: `make lock`, or `make lock UPGRADE=1` to move on to the newest versions.

One file for each image, with every library at one version and with the hashes of its files, so that an image holds the
same whenever it is built. `build.txt` holds what builds the wheel of dbward. Versions in the files are kept.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
IMAGES = {"server": ("server", "s3"), "agent": ("agent",), "cli": ()}
"""Each with the extras that it installs."""
HEAD = "# Written by `make lock`: every library of this image and the hashes of its files. Not to be edited.\n"


def main(arguments: list[str]) -> None:
    """`arguments` go to the resolver as they are: `--upgrade`, or `--upgrade-package NAME`."""
    REQUIREMENTS.mkdir(exist_ok=True)
    for name, extras in IMAGES.items():
        chosen = [word for extra in extras for word in ("--extra", extra)]
        compile_lock(REQUIREMENTS / f"{name}.txt", ["pyproject.toml", *chosen, *arguments])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = "\n".join(project["build-system"]["requires"])
    compile_lock(REQUIREMENTS / "build.txt", ["-", *arguments], wanted)


def compile_lock(path: Path, arguments: list[str], stdin: str | None = None) -> None:
    """Have `path` say what `arguments` need, for every platform and every Python that dbward runs on."""
    options = ["--universal", "--python-version", "3.11", "--only-binary", ":all:", "--generate-hashes", "--quiet"]
    plain = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command = ["uv", "pip", "compile", *options, *plain, *arguments, "--output-file", str(path)]
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, input=stdin, text=True, check=True)
    path.write_text(HEAD + path.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
