"""How flags, environment and files come together, and that no weaker layer can misuse a stronger one's secret."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from dbward.errors import Misconfigured
from dbward.settings.client import ClientSettings, Flags, Oidc, broker_from_env, load_client


@dataclass
class Machine:
    home: Path
    cwd: Path

    def everywhere(self, text: str) -> Path:
        path = self.home / ".config" / "dbward" / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def project(self, text: str, name: str = "dbward.toml") -> Path:
        path = self.cwd / name
        path.write_text(text)
        return path

    def load(self, flags: Flags | None = None, **env: str) -> ClientSettings:
        return load_client({"HOME": str(self.home), **env}, self.cwd, flags)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "home", tmp_path / "work")
    made.home.mkdir()
    made.cwd.mkdir()
    return made


ENV = {"DBWARD_SERVER_URL": "https://env.example", "DBWARD_TOKEN": "env-token"}


def token_of(settings: ClientSettings) -> str | None:
    return None if settings.token is None else settings.token.reveal()


def test_the_environment_suffices(machine: Machine) -> None:
    s = machine.load(**ENV)
    assert (s.url, token_of(s)) == ("https://env.example", "env-token")
    assert s.environment() == "development"
    assert s.migrations_dir == machine.cwd / "migrations"
    assert "env-token" not in repr(s)


def test_nothing_configured(machine: Machine) -> None:
    s = machine.load()
    assert s.migrations() == machine.cwd / "migrations"
    with pytest.raises(Misconfigured) as e:
        _ = s.url
    assert "DBWARD_SERVER_URL" in (e.value.hint or "")


def test_the_project_goes_over_the_global_file(machine: Machine) -> None:
    machine.everywhere(
        'default_database = "g"\ndefault_environment = "ge"\n[server]\nurl = "https://g"\ntoken = "gt"\n'
        '[results]\ndir = "~/r"\nformat = "csv"'
    )
    machine.project('default_database = "p"\nmigrations_dir = "m"\n[results]\nformat = "json"')
    s = machine.load()
    assert (s.url, token_of(s)) == ("https://g", "gt")
    assert (s.database(), s.environment()) == ("p", "ge")
    assert s.results_dir == machine.home / "r"
    assert s.result_format == "json"
    assert s.migrations_dir == machine.cwd / "m"
    assert len(s.files) == 2


def test_the_environment_goes_over_the_files(machine: Machine) -> None:
    machine.project('default_database = "p"\n[server]\nurl = "https://p"\ntoken = "pt"')
    s = machine.load(**ENV, DBWARD_DATABASE="ed", DBWARD_ENV="ee")
    assert (s.url, token_of(s), s.database(), s.environment()) == ("https://env.example", "env-token", "ed", "ee")
    flags = Flags(database="fd", environment="fe")
    again = machine.load(flags, **ENV, DBWARD_DATABASE="ed", DBWARD_ENV="ee")
    assert (again.database(), again.environment()) == ("fd", "fe")


@pytest.mark.parametrize("empty", [{"DBWARD_TOKEN": ""}, {}])
def test_an_empty_token_is_none(machine: Machine, empty: dict[str, str]) -> None:
    machine.project('[server]\nurl = "https://p"\ntoken = ""')
    assert machine.load(**empty).token is None


def test_a_project_cannot_redirect_a_global_token(machine: Machine) -> None:
    machine.everywhere('[server]\nurl = "https://good"\ntoken = "gt"')
    machine.project('[server]\nurl = "https://evil.example"')
    with pytest.raises(Misconfigured, match="the credential from"):
        machine.load()


def test_the_environment_cannot_redirect_a_file_token(machine: Machine) -> None:
    machine.project('[server]\nurl = "https://p"\ntoken = "pt"')
    with pytest.raises(Misconfigured, match="comes from the environment"):
        machine.load(DBWARD_SERVER_URL="https://evil.example")


def test_a_stronger_token_may_go_to_a_weaker_url(machine: Machine) -> None:
    machine.everywhere('[server]\nurl = "https://good"')
    machine.project('[server]\ntoken = "pt"')
    assert token_of(machine.load()) == "pt"
    assert token_of(machine.load(DBWARD_TOKEN="et")) == "et"


def test_a_project_with_its_own_provider_does_not_get_the_global_token(machine: Machine) -> None:
    machine.everywhere('[server]\nurl = "https://good"\ntoken = "gt"')
    machine.project('[server]\nurl = "https://p"\n[server.oidc]\nissuer = "https://id"\nclient_id = "x"')
    s = machine.load()
    assert s.token is None
    assert s.oidc is not None


def test_an_explicit_file_stands_alone(machine: Machine) -> None:
    machine.everywhere('default_database = "g"\n[server]\nurl = "https://g"\ntoken = "gt"')
    machine.project('default_database = "p"')
    other = machine.project('[server]\nurl = "https://o"\ntoken = "ot"', "other.toml")
    s = machine.load(Flags(config=Path("other.toml")))
    assert (s.url, s.default_database, s.files) == ("https://o", None, (str(other),))
    assert machine.load(DBWARD_CONFIG=str(other)).url == "https://o"
    assert machine.load(Flags(config=other, merge_global=True)).default_database == "g"
    with pytest.raises(Misconfigured, match="no such file"):
        machine.load(Flags(config=Path("missing.toml")))


def test_mistakes_of_both_files_at_once(machine: Machine) -> None:
    machine.everywhere("defualt_database = 'x'")
    machine.project('[server]\nurl = "nonsense"\n[results]\nformat = "xml"')
    with pytest.raises(Misconfigured) as e:
        machine.load()
    text = e.value.message
    assert "defualt_database: unknown key; did you mean `default_database`?" in text
    assert "server.url: must start with" in text
    assert "results.format" in text
    assert text.count("\n") == 2


def test_warnings(machine: Machine) -> None:
    machine.everywhere('migrations_dir = "m"\n[server]\nurl = "https://g"\ntoken = "gt"\n[databases.x]')
    machine.project('[server]\ntoken = "pt"')
    s = machine.load()
    assert any("project files" in warning for warning in s.warnings)
    assert any("ignored" in warning for warning in s.warnings)
    assert s.databases == ()
    assert "pt" not in " ".join(s.warnings).split()


def test_which_database(machine: Machine) -> None:
    with pytest.raises(Misconfigured, match="which database"):
        machine.load(**ENV).database()
    machine.project("[databases.only]\nmigrations_dir = 'x'")
    assert machine.load(**ENV).database() == "only"
    assert machine.load(**ENV).migrations_dirs == {"only": machine.cwd / "x"}
    with pytest.raises(Misconfigured, match="not listed"):
        machine.load(Flags(database="other"), **ENV).database()
    machine.project("[databases.a]\n[databases.b]")
    with pytest.raises(Misconfigured, match="which database"):
        machine.load(**ENV).database()


def test_plain_http_in_public(machine: Machine) -> None:
    public = {"DBWARD_SERVER_URL": "http://example.com", "DBWARD_TOKEN": "t"}
    with pytest.raises(Misconfigured, match="plain http"):
        machine.load(**public)
    for s in (
        machine.load(Flags(allow_insecure=True), **public),
        machine.load(**public, DBWARD_ALLOW_INSECURE="true"),
    ):
        assert s.transport == "insecure"
        assert any("plain http" in warning for warning in s.warnings)
    machine.project("[server]\nallow_insecure = true")
    assert machine.load(**public).transport == "insecure"
    with pytest.raises(Misconfigured, match="plain http"):
        machine.load(**public, DBWARD_ALLOW_INSECURE="0")


def test_an_identity_provider_never_goes_over_plain_http(machine: Machine) -> None:
    machine.project(
        '[server]\nurl = "http://example.com"\nallow_insecure = true\n'
        '[server.oidc]\nissuer = "https://id"\nclient_id = "x"'
    )
    with pytest.raises(Misconfigured, match="plain http"):
        machine.load()


def test_variables_in_files(machine: Machine) -> None:
    machine.project('[server]\nurl = "${URL:-https://d}"\ntoken = "${T}"')
    s = machine.load(T="secret")
    assert (s.url, token_of(s)) == ("https://d", "secret")
    with pytest.raises(Misconfigured, match=r"server\.token: environment variable T is not set"):
        machine.load()


def test_broker_from_env() -> None:
    assert broker_from_env(ENV) == ("https://env.example", "env-token")
    with pytest.raises(Misconfigured, match="DBWARD_TOKEN must be set"):
        broker_from_env({"DBWARD_SERVER_URL": "https://x"})
    with pytest.raises(Misconfigured, match="plain http"):
        broker_from_env({**ENV, "DBWARD_SERVER_URL": "http://example.com"})


def test_the_identity_provider(machine: Machine) -> None:
    machine.everywhere(
        '[server]\nurl = "https://s"\n[server.oidc]\nissuer = "https://id/"\nclient_id = "x"\n'
        'scopes = ["email", "groups"]\nbackchannel_url = "http://keycloak:8080"'
    )
    s = machine.load()
    assert s.oidc == Oidc("https://id/", "x", backchannel_url="http://keycloak:8080", scopes=("email", "groups"))
    assert s.logins_dir is not None
    assert s.logins_dir.name == "credentials"


@pytest.mark.parametrize("key", ["issuer", "discovery_url", "backchannel_url", "browser_url"])
def test_no_credential_goes_over_plain_http(machine: Machine, key: str) -> None:
    given = {"issuer": "https://id", "client_id": "x", key: "http://id.example.com"}
    lines = "\n".join(f'{name} = "{value}"' for name, value in given.items())
    machine.everywhere(f'[server]\nurl = "https://s"\n[server.oidc]\n{lines}')
    with pytest.raises(Misconfigured, match=f"server.oidc.{key}"):
        machine.load()
