"""podman, for tests of the images: it builds them as anybody's engine does, and runs them on this machine.

The image that the Dockerfile starts from is not fetched from a registry but made of Debian's packages: the same
distribution and the same minor version of Python, at the same paths. It and the layers that did not change are kept in
the user's cache directory, so that a second build takes seconds.

Where podman cannot work `Unusable` says why. Tests skip for that only when they do not run as root: on a build server,
which is root, it is a failure.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

from tests.support import guard, services
from tests.support.processes import Farm, Process

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
SUITE, PYTHON_IMAGE = "trixie", "docker.io/library/python:3.13-slim-trixie"
PROGRAMS = ("podman", "runc", "iptables", "mmdebstrap")
NETWORK = ("netavark", "aardvark-dns")
TOOLS = ROOT / ".venv" / "tools" / "bin"
"""Programs of `deploy/dev/tools.txt`."""
TARGETS = ("server", "agent", "cli")
CONFIG = """
[containers]
# The engine would ask for more than a machine that is itself virtual may grant.
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"

[network]
network_backend = "netavark"
network_config_dir = "{networks}"
"""

BUILT_VERSION = "0.0.0-test"

Target = Literal["server", "agent", "cli"]


class Unusable(Exception):
    """This machine cannot run the images; the message says what is missing."""


def missing() -> list[str]:
    """The programs that are not installed, and podman's own, which are on no PATH."""
    beside = [Path(lib) / "podman" for lib in ("/usr/lib", "/usr/libexec", "/usr/local/libexec")]
    absent = [name for name in NETWORK if not any((directory / name).exists() for directory in beside)]
    return [name for name in PROGRAMS if shutil.which(name) is None] + absent


def podman(*arguments: str, timeout: float = 900) -> str:
    """Run podman on the store of these tests; its standard output. Raises `CalledProcessError`, with what it said."""
    done = subprocess.run(
        [*_podman(), *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, done.args)
        error.add_note(done.stdout[-5_000:] + done.stderr[-20_000:])
        raise error
    return done.stdout


def build_all() -> None:
    """Have `localhost/dbward-server`, `-agent` and `-cli` built of this source tree; once in a session.

    Raises `Unusable` where that is not possible, and `CalledProcessError` when it fails.
    """
    built = services.run_dir() / "images"
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if built.exists():
            return
        _prepare()
        for target in TARGETS:
            _build(target)
        built.touch()


@dataclass(frozen=True, slots=True)
class Container:
    """One that runs."""

    name: str
    image: str
    process: Process

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the container's user."""
        return subprocess.run(
            [*_podman(), "exec", self.name, *command],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def healthy(self) -> bool:
        """What the image's own health check says."""
        check = json.loads(podman("image", "inspect", self.image))[0]["Healthcheck"]["Test"]
        assert check[0] == "CMD", "without a shell"
        return self.exec(*check[1:]).returncode == 0

    def stop(self, secs: int) -> int:
        """SIGTERM, and the exit status; a container that takes longer is killed, which is status 137."""
        podman("stop", "--time", str(secs), self.name)
        return self.process.wait(secs + 30)


@contextmanager
def running(
    farm: Farm, target: Target, *options: str, name: str | None = None, arguments: Sequence[str] = ()
) -> Iterator[Container]:
    """A container of the image, as a hardened platform runs it: read-only, without capabilities or a way to gain any.

    `options` are podman's, `arguments` go to the program. What it writes is in the farm's logs under `name`.
    """
    hardened = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--no-healthcheck"]
    with started(farm, name or target, image(target), [*hardened, *options], arguments) as container:
        yield container


@contextmanager
def started(
    farm: Farm, name: str, image_name: str, options: Sequence[str], arguments: Sequence[str] = ()
) -> Iterator[Container]:
    """A container of any image; gone afterwards, with its volumes."""
    unique = f"{name}-{sha256(bytes(farm.dir)).hexdigest()[:12]}"
    argv = [*_podman(), "run", "--rm", "--name", unique, "--env", guard.MARK, *options, image_name, *arguments]
    try:
        yield Container(unique, image_name, farm.spawn(name, argv, env={"CONTAINERS_CONF": str(_config())}))
    finally:
        subprocess.run(
            [*_podman(), "rm", "--force", "--ignore", "--volumes", "--time", "0", unique],
            env=environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )


def has_image(name: str) -> bool:
    return subprocess.run([*_podman(), "image", "exists", name], env=environment(), check=False).returncode == 0


def image(target: Target) -> str:
    return f"localhost/dbward-{target}"


def _prepare() -> None:
    if names := missing():
        raise Unusable(f"not installed: {', '.join(names)} (Debian: apt-get install {' '.join(PROGRAMS + NETWORK)})")
    try:
        podman("container", "prune", "--force", "--filter", "until=2h")  # of sessions that were killed
        podman("image", "prune", "--force", "--filter", "until=336h")
    except subprocess.CalledProcessError as e:
        raise Unusable("podman does not work here: " + " ".join(e.__notes__)) from e
    if not has_image(PYTHON_IMAGE):
        _make_base(_cache() / "base.tar")


def build(tag: str, dockerfile: Path, context: Path, *options: str) -> None:
    """Build an image; what has not changed since the last time is taken from there."""
    how = ["--isolation", "chroot", "--pull=never", "--format", "docker", "--layers", "--network", "host"]
    trusted = ssl.get_default_verify_paths().cafile
    if trusted:  # a build must trust whom this machine trusts
        how += ["--volume", f"{Path(trusted).resolve()}:/etc/ssl/certs/ca-certificates.crt:ro"]
    podman("build", *how, *options, "--file", str(dockerfile), "--tag", tag, str(context))


def _build(target: str) -> None:
    options = ["--build-arg", f"PYTHON_IMAGE={PYTHON_IMAGE}", "--build-arg", f"VERSION={BUILT_VERSION}"]
    build(f"dbward-{target}", DOCKERFILE, ROOT, "--target", target, *options)


def _make_base(archive: Path) -> None:
    """What `python:3.13-slim` is, from Debian's packages."""
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    links = [f'--customize-hook=ln -s /usr/bin/python3 "$1/usr/local/bin/{name}"' for name in ("python", "python3")]
    packages = "--include=python3,python3-venv,ca-certificates"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", packages, *left_out, *links, SUITE, str(archive)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unusable(f"mmdebstrap failed with {done.returncode}:\n{done.stderr}")
    podman("import", "--quiet", str(archive), PYTHON_IMAGE)
    archive.unlink()


def wrapper(path: Path) -> Path:
    """Write a program that is podman on the store of these tests."""
    path.write_text(f'#!/bin/sh\nexport CONTAINERS_CONF={_config()}\nexec {shlex.join(_podman())} "$@"\n')
    path.chmod(0o755)
    return path


@contextmanager
def alone() -> Iterator[None]:
    """While no other session on this machine is in here: for what has names and networks of its own."""
    with (_cache() / "alone").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment() -> dict[str, str]:
    return {**os.environ, "CONTAINERS_CONF": str(_config())}


@cache
def _config() -> Path:
    path = _cache() / "containers.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(CONFIG.format(networks=_cache() / "networks"))
    return fresh.replace(path)


def _podman() -> tuple[str, ...]:
    return ("podman", "--root", str(_cache() / "store"), "--runroot", f"/tmp/dbward-tests-podman-{os.geteuid()}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dbward-tests" / "engine"


def main() -> int:
    """`python -m tests.support.engine`: say what is not installed; 0 when everything is."""
    names = missing()
    if names:
        print("not installed: " + ", ".join(names), file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
