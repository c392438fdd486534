"""`celery -A tasks …`: the application for `inspect` and Flower, told by DBWARD_SERVER_URL and DBWARD_TOKEN."""

from __future__ import annotations

from dbward.errors import DbwardError
from dbward.settings.client import broker_from_env
from tasks import control
from tasks.app import make_app

__all__ = ["app", "control"]  # Celery's command line knows the commands that are imported

try:
    _url, _token = broker_from_env()
except DbwardError as e:
    # Any other exception is shown by Celery as a page of its own frames.
    raise SystemExit("\n".join(filter(None, (f"Error: {e.message}", e.hint)))) from None
app = make_app(server_url=_url, token=_token)
