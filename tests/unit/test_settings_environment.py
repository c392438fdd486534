"""What a deployment tells the server through its environment, in place of the file or over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbward.errors import Misconfigured
from dbward.settings.load import FromVariable
from dbward.settings.server import OVERRIDES, load_server, read_state_dir

MINIMAL = """
state_dir = "state"
[[databases]]
name = "app"
environments = ["production"]
"""


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(MINIMAL + '[state]\nurl = "sqlite:////elsewhere.db"\n[result_storage]\nbucket = "of-the-file"\n')
    env = {
        "DBWARD_STATE_URL": "postgresql://u:hunter2@db/state",
        "DBWARD_KEY_SEED": "s" * 32,
        "DBWARD_METRICS_EMF_NAMESPACE": "dbward/blue",
        "DBWARD_RESULT_STORAGE_BUCKET": "of-the-stack",
        "DBWARD_RESULT_STORAGE_REGION": "eu-central-1",
        "DBWARD_RESULT_STORAGE_PREFIX": "results",
        "DBWARD_RESULT_STORAGE_ENDPOINT": "http://127.0.0.1:9000",
        "DBWARD_RESULT_STORAGE_PATH_STYLE": "true",
    }
    s = load_server(path, env)
    assert s.state.url == "postgresql://u:hunter2@db/state"
    assert s.state.key_seed is not None
    assert s.state.key_seed.reveal() == "s" * 32
    assert s.emf_namespace == "dbward/blue"
    assert (s.results.s3.bucket, s.results.s3.region, s.results.s3.prefix) == (
        "of-the-stack",
        "eu-central-1",
        "results",
    )
    assert (s.results.s3.endpoint, s.results.s3.path_style) == ("http://127.0.0.1:9000", True)
    assert "ssss" not in repr(s)
    assert "hunter2" not in repr(s)


def test_every_override_names_a_setting(tmp_path: Path) -> None:
    """A key that nobody reads would be reported as unknown."""
    good = {
        "DBWARD_STATE_URL": "postgresql://db/x",
        "DBWARD_RESULT_STORAGE_BACKEND": "local",
        "DBWARD_KEY_SEED": "x" * 32,
    }
    good |= {"DBWARD_RESULT_STORAGE_PATH_STYLE": "0", "DBWARD_RESULT_STORAGE_ENDPOINT": "http://s3:9000"}
    path = tmp_path / "server.toml"
    path.write_text(MINIMAL)
    load_server(path, {name: good.get(name, "name") for name in OVERRIDES})


@pytest.mark.parametrize(
    ("variable", "value", "mistake"),
    [
        ("DBWARD_RESULT_STORAGE_BACKEND", "ftp", "result_storage.backend: 'ftp' is not one of local, s3"),
        ("DBWARD_KEY_SEED", "short", "state.key_seed: must be at least 32 random characters"),
        ("DBWARD_STATE_URL", "mysql://db/x", "state.url: must be sqlite:"),
        ("DBWARD_METRICS_EMF_NAMESPACE", "AWS/ECS", "metrics.emf_namespace: must be up to 255"),
        ("DBWARD_METRICS_EMF_NAMESPACE", "a b", "metrics.emf_namespace: must be up to 255"),
    ],
)
def test_a_wrong_override_is_a_mistake_like_any_other(tmp_path: Path, variable: str, value: str, mistake: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(MINIMAL)
    with pytest.raises(Misconfigured) as e:
        load_server(path, {variable: value})
    assert mistake in e.value.message


def test_the_configuration_may_be_in_the_environment(tmp_path: Path) -> None:
    env = {"DBWARD_CONFIG_TOML": MINIMAL}
    s = load_server(FromVariable(tmp_path), env)
    assert s.state_dir == read_state_dir(FromVariable(tmp_path), env) == tmp_path / "state"
    path = tmp_path / "server.toml"
    path.write_text(MINIMAL)
    assert load_server(path, {}).config_digest == s.config_digest
