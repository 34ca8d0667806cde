"""The database: migrated, durable, one transaction or nothing."""

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fedhe.errors import ResourceError, StateError, TrustError
from fedhe.server import records
from fedhe.server import store as store_module
from fedhe.server.audit import Audit
from fedhe.server.database import URL_VARIABLE, database_url, sqlite_url
from fedhe.server.store import look_into, open_store, schema_version
from fedhe.server.tables import audit_outbox, metadata
from fedhe.trust import audit_log

JOB = records.JobRow("job-1", "brain", "lead@x", 5.0, b"d" * 32, "{}", "{}")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "server.db")
    made = request.getfixturevalue("postgresql").create()
    return database_url(tmp_path, {URL_VARIABLE: made})


@pytest.fixture
def store(url):
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def sqlite_store(tmp_path):
    store = open_store(sqlite_url(tmp_path / "server.db"))
    yield store
    store.close()


def differences(connection):
    """What the tables in the database lack; their comments are for readers of tables.py and stay there."""
    found = compare_metadata(MigrationContext.configure(connection), metadata)
    return [one for one in found if one[0] != "add_table_comment"]


def test_the_migrations_lead_to_the_tables_that_the_code_uses(store):
    with store.read() as connection:
        assert schema_version(connection) is not None
        assert differences(connection) == []


def test_commits_wait_for_the_disk(store):
    with store.read() as connection:
        if connection.dialect.name == "postgresql":
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
            return
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_transaction_that_fails_leaves_nothing(store):
    def fail():
        with store.write() as connection:
            records.insert_job(connection, JOB)
            raise RuntimeError("between")

    with pytest.raises(RuntimeError):
        fail()
    with store.read() as connection:
        assert records.jobs(connection) == []


def test_storing_when_a_site_was_seen_leaves_what_an_admin_set_meanwhile(store):
    seen = records.SiteRow("hospitalA", enabled=True, last_seen=3.5, software_version="1")
    with store.write() as connection:
        records.put_site(connection, records.SiteRow("hospitalA", enabled=False))
        records.put_seen(connection, seen)
        records.put_seen(connection, records.SiteRow("hospitalB", last_seen=1.0))
    with store.read() as connection:
        assert records.sites(connection) == [
            records.SiteRow("hospitalA", enabled=False, last_seen=3.5, software_version="1"),
            records.SiteRow("hospitalB", last_seen=1.0),
        ]


def test_rows_come_back_as_they_went_in_after_reopening(store, url):
    site = records.SiteRow("hospitalA", enabled=False, last_seen=3.5, software_version="1")
    done = records.ObjectRow("job-1", "update", 1, 2, "hospitalA", 3, 300, b"x" * 32, 9.0)
    with store.write() as connection:
        records.insert_job(connection, JOB)
        records.put_site(connection, records.SiteRow("hospitalA"))
        records.put_site(connection, site)
        records.put_object(connection, done)
        records.update_round(connection, "job-1", 1, attempts=1, started_at=2.0)
        records.update_round(connection, "job-1", 1, sum_bytes=2**40)
        records.update_contribution(connection, "job-1", 1, "hospitalA", ready_at=4.0)
        records.add_bytes(connection, "job-1", 1, "hospitalA", up=5)
        records.add_bytes(connection, "job-1", 1, "hospitalA", up=6, down=1)
        records.set_setting(connection, "roster", "3")
    store.close()
    again = open_store(url)
    with again.read() as connection:
        assert records.jobs(connection) == [JOB]
        assert records.sites(connection) == [site]
        assert records.objects(connection, "job-1") == [done]
        assert records.rounds(connection, "job-1") == [records.RoundRow("job-1", 1, 1, 2.0, sum_bytes=2**40)]
        (contribution,) = records.contributions(connection, "job-1")
        assert (contribution.bytes_up, contribution.bytes_down, contribution.ready_at) == (11, 1, 4.0)
        assert records.setting(connection, "roster") == "3"
    with again.write() as connection:
        records.delete_job(connection, "job-1")
        assert records.objects(connection) == []
    again.close()


def test_a_database_of_a_newer_fedhe_is_refused(store, url):
    with store.write() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = 'v9999'")
    store.close()
    with pytest.raises(StateError, match="schema v9999, this fedhe knows schemas up to v"):
        open_store(url)
    with pytest.raises(StateError, match="schema v9999, this fedhe reads v"):
        look_into(url)


def test_the_first_released_schema_is_migrated_with_what_is_in_it(url):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config, _ = store_module._scripts(connection)
        command.upgrade(config, "v0001")
        records.insert_job(connection, JOB)
        records.update_round(connection, "job-1", 1, attempts=1, sum_bytes=77)
        records.update_contribution(connection, "job-1", 1, "hospitalA", ready_at=4.0, bytes_up=11)
        records.put_object(connection, records.ObjectRow("job-1", "sum", 1, 2, "", 3, 300, b"x" * 32, 9.0))
        records.decide(connection, 1.0, "job-started", "{}")
        records.set_setting(connection, "roster", "3")
    engine.dispose()
    store = open_store(url)
    with store.write() as connection:
        assert schema_version(connection) != "v0001"
        assert differences(connection) == []
        assert records.jobs(connection) == [JOB]
        assert records.rounds(connection, "job-1") == [records.RoundRow("job-1", 1, 1, sum_bytes=77)]
        assert records.contributions(connection, "job-1")[0].bytes_up == 11
        assert [(one.kind, one.size) for one in records.objects(connection)] == [("sum", 300)]
        assert [line[2] for line in records.undelivered(connection)] == ["job-started"]
        assert records.setting(connection, "roster") == "3"
        records.delete_job(connection, "job-1")  # the references between the tables have survived
        assert records.objects(connection) == records.rounds(connection, "job-1") == []
    store.close()


def test_a_damaged_database_is_one_clear_error(tmp_path):
    (tmp_path / "server.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ResourceError, match="database"):
        open_store(sqlite_url(tmp_path / "server.db"))


def test_a_full_disk_fails_the_transaction_and_nothing_else(sqlite_store):
    store = sqlite_store
    with store.write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def fill():
        with store.write() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            records.set_setting(connection, "big", "x" * 1_000_000)

    with pytest.raises(ResourceError, match="disk is full"):
        fill()
    with store.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert records.setting(connection, "big") is None
        records.set_setting(connection, "big", "fits now")


def test_a_decision_reaches_the_audit_log_once_however_often_it_is_delivered(store, tmp_path):
    path = tmp_path / "audit.log"
    audit = Audit(path, store)
    with store.write() as connection:
        audit.decide(connection, 1.0, "job-started", {"job": "job-1", "digest": b"\1\2"})
    with store.read() as connection:
        lines = records.undelivered(connection)
    audit.deliver()
    # As if the server had died after writing the log and before noting so in the database.
    with store.write() as connection:
        sequence, time, kind, fields = lines[0]
        row = {"sequence": sequence, "time": time, "kind": kind, "fields": fields}
        connection.execute(sa.insert(audit_outbox).values(row))
    Audit(path, store).deliver()
    audit.note(2.0, "job-ended", {})
    assert [line["kind"] for line in audit_log.read(path)] == ["job-started", "job-ended"]
    assert next(audit_log.read(path))["fields"] == {"job": "job-1", "digest": "0102", "sequence": 1}


def test_a_decision_that_is_rolled_back_is_never_in_the_audit_log(store, tmp_path):
    audit = Audit(tmp_path / "audit.log", store)

    def fail():
        with store.write() as connection:
            audit.decide(connection, 1.0, "never", {})
            raise RuntimeError("between")

    with pytest.raises(RuntimeError):
        fail()
    audit.deliver()
    assert list(audit_log.read(tmp_path / "audit.log")) == []


def test_refusals_of_one_kind_are_noted_once_a_minute(store, tmp_path):
    audit = Audit(tmp_path / "audit.log", store)
    for second in range(0, 130, 10):
        audit.note_refusal(float(second), "site X", "Join", "revoked")
    audit.note_refusal(5.0, "site Y", "Join", "revoked")
    assert [line["time"] for line in audit_log.read(tmp_path / "audit.log")] == [0.0, 60.0, 120.0, 5.0]


def test_a_refusal_is_passed_over_where_the_audit_log_is_damaged(store, tmp_path):
    path = tmp_path / "audit.log"
    path.write_text("no audit line\n")
    audit = Audit(path, store)
    audit.note_refusal(1.0, "hospitalA", "Admin/Shutdown", "not for sites")
    with pytest.raises(TrustError, match="no line of an audit log"):
        audit.note(2.0, "job-started", {})
    assert path.read_text() == "no audit line\n"
