"""How property tests run here: no clock decides about them, and nothing is kept between runs."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

calm = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
