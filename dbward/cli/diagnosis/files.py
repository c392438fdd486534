"""What the configuration refers to, and who else on the machine can read what it keeps secret."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from dbward.cli.diagnosis.model import Check, failed, passed, skipped, warned
from dbward.db.filesystem import filesystem_of
from dbward.errors import Misconfigured
from dbward.settings.load import CONFIG_VARIABLE, FromVariable, Source, references

CORRECT: Final = "correct what is listed; docs/reference/configuration.md has every key, and `dbward init` writes files"
"""What to do about a configuration that cannot be read."""

_SECRET_NAME: Final = re.compile(r"TOKEN|PASSWORD|SECRET|_KEY|SEED", re.IGNORECASE)
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
"""Where orchestrators put secrets: whoever is in the container may read them, and nobody else sees them."""


def check_references(source: Source, env: Mapping[str, str]) -> Check:
    """Whether everything that the file refers to with `${…}` is there."""
    try:
        found = references(source, env)
    except Misconfigured:
        return skipped("env_vars", "the configuration cannot be read")
    variables = [one for one in found if not one.file]
    missing = [one.name for one in variables if not one.default and one.name not in env]
    empty = [one.name for one in variables if env.get(one.name) == "" and _SECRET_NAME.search(one.name)]
    unreadable = [one.name for one in found if one.file and not os.access(one.name, os.R_OK)]
    if missing or unreadable:
        return failed(
            "env_vars",
            f"the configuration refers to what is not there: {', '.join([*missing, *unreadable])}",
            "export the variables, and give the files to the user that this runs as; systemd units, containers and "
            "shells have environments of their own",
        )
    if empty:
        return warned("env_vars", f"set but empty: {', '.join(empty)}", "an empty secret is most often a forgotten one")
    return passed("env_vars", f"{len(found)} referred to, all there" if found else "none is referred to")


def check_config_access(
    source: Source, env: Mapping[str, str], secrets: Iterable[str], *, name: str = "config_permissions"
) -> Check:
    """Whether somebody else may read a secret that stands in the file or in one that it refers to, or change them."""
    if isinstance(source, FromVariable):
        return skipped(name, f"the configuration is in {CONFIG_VARIABLE}")
    try:
        text = source.read_text(errors="replace")
        files = [Path(one.name) for one in references(source, env) if one.file]
    except (OSError, Misconfigured) as e:
        return failed(name, f"{source} cannot be read ({type(e).__name__})", "give it to the user that this runs as")
    holds = any(secret and secret in text for secret in secrets)
    exposed = [*others_may(source, reading=holds)]
    for path in files:
        exposed += others_may(path, reading=True)
    if exposed:
        return warned(
            name,
            "other users of this machine may read or change secrets of this configuration",
            "chmod 600 these files and give them to the user that this runs as; or keep the secrets elsewhere and "
            "refer to them with ${VARIABLE} or ${file:/path}",
            exposed,
        )
    where = f"{source} holds secrets, and is its owner's alone" if holds else f"no secret stands in {source}"
    return passed(name, where)


def others_may(path: Path, *, reading: bool) -> Iterator[str]:
    """A sentence if everybody may write `path` or, where that matters, anybody but its owner read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        hidden = filesystem_of(path).kind in _IN_MEMORY
    except OSError:
        return  # that it is missing is said elsewhere
    if hidden:
        return
    if mode & stat.S_IWOTH:
        yield f"{path} (mode {mode:04o}) can be changed by everybody"
    elif reading and mode & (stat.S_IRGRP | stat.S_IROTH):
        yield f"{path} (mode {mode:04o}) can be read by others than its owner"


def anybody_may(path: Path) -> bool:
    """Whether users beyond owner and group may read or change it."""
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        return False


def passwords_of(url: str) -> list[str]:
    """The password in a URL, as it stands there and as it is meant."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return []
    return list(dict.fromkeys([password, unquote(password)])) if password else []


def check_directory(name: str, path: Path, what: str) -> Check:
    """Whether files can be made in `path`, or it in the nearest directory there is."""
    there = next((one for one in (path, *path.absolute().parents) if one.exists()), None)
    if there is None or not there.is_dir():
        return failed(name, f"{path} cannot be {what}: {there} is not a directory", "name another place for it")
    if not os.access(there, os.W_OK | os.X_OK):
        return failed(
            name, f"{path} cannot be {what}: {there} may not be written", "give it to the user that this runs as"
        )
    return passed(name, f"{path} is {what}" if there == path else f"{path} will be made")
