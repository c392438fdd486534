"""What every command shares: the global options, the settings, the connection, questions to the person."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dbward import VERSION
from dbward.cli.env import Env
from dbward.cli.exits import Exit, Outcome, Stop
from dbward.cli.output import Format, Output

if TYPE_CHECKING:
    from dbward.cli.credentials import Login
    from dbward.client.http import ApiClient
    from dbward.settings.client import ClientSettings, Flags

F = TypeVar("F", bound=Callable[..., Any])

FORMATS: tuple[Format, ...] = ("human", "json", "quiet")
YES = frozenset({"1", "true", "yes"})


class App:
    """One run of the program."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.options: dict[str, Any] = {}
        self._out: Output | None = None
        self._settings: ClientSettings | None = None
        self._client: ApiClient | None = None
        self._login: Login | None = None
        self._closing = ExitStack()

    @property
    def out(self) -> Output:
        """The sink, once the options are known."""
        if self._out is None:
            self._out = Output(self.env, self.options.get("format") or "human")
        return self._out

    @property
    def settings(self) -> ClientSettings:
        """For commands that ask the server. Raises `Misconfigured`, also when nothing says where it is."""
        _ = self.offline_settings.url
        return self.offline_settings

    @property
    def offline_settings(self) -> ClientSettings:
        """For commands that need no server. Raises `Misconfigured`; warnings go out once."""
        if self._settings is None:
            from dbward.settings.client import load_client

            self._settings = load_client(self.env.variables, self.env.cwd, self.flags)
            for warning in self._settings.warnings:
                self.out.warn(warning)
        return self._settings

    def configured(self, *keys: str) -> list[str]:
        """What the files say under those keys of `ClientSettings`, for a shell to choose from; nothing when they are
        wrong. A key pressed in a shell is answered without the network, and without a word on stderr.
        """
        from dbward.errors import DbwardError
        from dbward.settings.client import load_client

        try:
            settings = load_client(self.env.variables, self.env.cwd, self.flags)
        except DbwardError:
            return []
        values = [getattr(settings, key) for key in keys]
        names = {name for value in values for name in (value if isinstance(value, tuple) else (value,))}
        return sorted(name for name in names if name)

    @property
    def flags(self) -> Flags:
        """The global options, as the settings take them."""
        from dbward.settings.client import Flags

        config = self.options.get("config")
        return Flags(
            config=Path(config) if config else None,
            merge_global=bool(self.options.get("merge_global")),
            database=self.options.get("database"),
            environment=self.options.get("environment"),
            allow_insecure=bool(self.options.get("allow_insecure")),
        )

    @property
    def client(self) -> ApiClient:
        """The connection to the server. Raises `Misconfigured`, also when there is nothing to sign in with."""
        if self._client is None:
            from dbward.errors import Unauthorized
            from dbward.settings.client import HINT

            settings = self.settings
            token: str | Callable[[], str]
            if settings.token is not None:
                token = settings.token.reveal()
            elif settings.oidc is not None:
                token = self.login.token
                token()  # who is not logged in is told so before anything else is done
            else:
                raise Unauthorized("no token is configured", code="auth_error", hint=HINT)
            self._client = self._connected(settings.url, token)
        return self._client

    def connect(self, url: str, token: str) -> None:
        """Have `client` be a connection that is not the one of the configuration."""
        self._client = self._connected(url, token)

    def _connected(self, url: str, token: str | Callable[[], str]) -> ApiClient:
        from dbward.client.http import ApiClient

        client = ApiClient(url, token, version=VERSION, transport=self.env.transport)
        self.on_close(client.close)
        return client

    @property
    def login(self) -> Login:
        """Where the login through `[server.oidc]` is kept. Raises `Misconfigured` when that cannot be anywhere."""
        if self._login is None:
            from dbward.cli.credentials import Login
            from dbward.errors import Misconfigured

            settings = self.settings
            assert settings.oidc is not None
            if settings.logins_dir is None:
                raise Misconfigured("there is no place for the login", hint="set HOME or XDG_CONFIG_HOME")
            self._login = Login(settings.logins_dir, settings.url, settings.oidc)
        return self._login

    def on_close(self, close: Callable[[], None]) -> None:
        """Call `close` when the run is over, after everything was printed."""
        self._closing.callback(close)

    def close(self) -> None:
        self._closing.close()

    def note_version(self) -> None:
        """A server of another version may behave differently: say so once, when nothing went wrong."""
        seen = self._client.server_version if self._client is not None else None
        if seen is not None and seen != VERSION:
            self.out.warn(f"the server is version {seen}, this program is {VERSION}")

    @property
    def yes(self) -> bool:
        return bool(self.options.get("yes")) or self.env.variables.get("DBWARD_YES", "").lower() in YES

    @property
    def can_ask(self) -> bool:
        return self.out.human and self.env.can_ask

    def confirm(self, question: str) -> None:
        """Go on only if the person says yes, here or beforehand with `--yes`. Raises `Stop`."""
        if self.yes:
            return
        if not self.can_ask:
            raise Stop(
                Outcome(
                    exit=Exit.FAILED,
                    code="confirmation_required",
                    message="this needs a confirmation, and there is nobody to ask",
                    hint="pass --yes, or set DBWARD_YES=1, if it is meant",
                )
            )
        if not self.asked(question):
            raise Stop(Outcome(exit=Exit.FAILED, code="blocked", message="not confirmed; nothing was done"))

    def asked(self, question: str) -> bool:
        """The answer to a yes-or-no question on the terminal; no is the default."""
        return self._answer(f"{question} [y/N] ").lower() in {"y", "yes"}

    def ask(self, question: str, usual: str) -> str:
        """The answer to a question on the terminal; `usual` when it is empty."""
        return self._answer(f"{question} [{usual}] ") or usual

    def _answer(self, prompt: str) -> str:
        self.env.stdout.flush()
        self.env.stderr.write(prompt)
        self.env.stderr.flush()
        answer = self.env.stdin.readline()
        if not answer.endswith("\n"):
            self.env.stderr.write("\n")
        return answer.strip()


class GlobalOption(click.Option):
    """One that every command takes. Only the program's own help lists it; the shell completes it everywhere."""

    listed = False

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return super().get_help_record(ctx) if self.listed else None


def global_options(*, hidden: bool) -> Callable[[F], F]:
    """Options that stand before or after a command's name; the later one wins. `hidden`: the help is silent on them."""

    def decorate(function: F) -> F:
        for option in reversed(
            [
                GlobalOption(
                    ["--config", "_config"],
                    type=click.Path(),
                    metavar="FILE",
                    help="Read this file instead of ./dbward.toml.",
                ),
                GlobalOption(["--merge-global"], is_flag=True, help="With --config: read the global file as well."),
                GlobalOption(
                    ["-d", "--database"],
                    metavar="NAME",
                    help="The database to work on.",
                    shell_complete=_completing("databases", "default_database"),
                ),
                GlobalOption(
                    ["-e", "--environment"],
                    metavar="NAME",
                    help="Its environment.",
                    shell_complete=_completing("default_environment"),
                ),
                GlobalOption(["--format"], type=click.Choice(FORMATS), help="How to print; human is the default."),
                GlobalOption(["--allow-insecure"], is_flag=True, help="Allow plain http to a public host."),
                GlobalOption(["-y", "--yes"], is_flag=True, help="Do not ask for confirmation."),
            ]
        ):
            option.listed = not hidden
            option.expose_value = False
            option.callback = _remember
            _add(function, option)
        return function

    return decorate


def _add(function: Callable[..., Any], option: click.Option) -> None:
    if isinstance(function, click.Command):
        function.params.insert(0, option)
    else:
        params = getattr(function, "__click_params__", [])
        params.append(option)
        function.__click_params__ = params  # type: ignore[attr-defined]  # where click keeps a function's options


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        app = ctx.find_object(App)
        assert app is not None
        app.options[(param.name or "").lstrip("_")] = value


def _completing(*keys: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        app = ctx.find_object(App)
        assert app is not None
        return [name for name in app.configured(*keys) if name.startswith(incomplete)]

    return complete


pass_app = click.make_pass_decorator(App)
EPILOG = "Also takes the global options of `dbward --help`: --format, -d, -e, --config, --yes …"
