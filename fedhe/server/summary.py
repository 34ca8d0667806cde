"""What a server's folder tells without the server: for `fedhe-server status`, running or not."""

import json
from pathlib import Path
from typing import Any

from fedhe.server import records
from fedhe.server.database import DATABASE_FILE, database_url
from fedhe.server.store import look_into


def read_summary(folder: Path) -> dict[str, Any]:
    """The jobs and sites that are stored; changes nothing.

    Raises:
        ResourceError: the database cannot be read.
        StateError: it is of another fedhe.
    """
    url = database_url(folder)
    if url.get_backend_name() == "sqlite" and not (folder / DATABASE_FILE).exists():
        return {"jobs": [], "sites": []}
    store = look_into(url)
    try:
        with store.read() as connection:
            jobs, sites = records.jobs(connection), records.sites(connection)
    finally:
        store.close()
    return {
        "jobs": [_job(row) for row in jobs],
        "sites": [{"name": one.name, "enabled": one.enabled, "last_seen": one.last_seen or None} for one in sites],
    }


def _job(row: records.JobRow) -> dict[str, Any]:
    state = json.loads(row.state)
    return {
        "job_id": row.job_id,
        "name": row.name,
        "phase": state["phase"],
        "round": state["round"],
        "rounds": state["config"]["rounds"],
        "submitted_by": row.submitted_by,
        "submitted_at": row.submitted_at,
        "ended_at": row.ended_at or None,
        "message": state["message"],
        "paused_at": state.get("paused_at"),
        "pause_reason": state.get("pause_reason") or None,
    }
