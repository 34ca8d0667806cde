"""A server whose state is in PostgreSQL: found, alone in its database, tied to its folder, and as durable."""

import contextlib
import signal

import psycopg
import pytest

from fedhe.errors import ConfigError, ResourceError, StateError, TrustError
from fedhe.server import records
from fedhe.server.database import URL_FILE, URL_VARIABLE, bind_to_folder, database_url
from fedhe.server.store import open_store
from fedhe.wire import admin


@pytest.fixture
def url(postgresql, tmp_path):
    return database_url(tmp_path, {URL_VARIABLE: postgresql.create()})


@pytest.fixture
def opened():
    """Opens stores that are closed at the test's end."""
    stores = []

    def open_one(url):
        stores.append(open_store(url))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


# ---- which database ----


def test_sqlite_is_the_default(tmp_path):
    assert database_url(tmp_path, {}).database == str(tmp_path / "server.db")


def test_the_url_comes_from_the_environment_or_from_a_file_that_nobody_else_may_read(tmp_path):
    file = tmp_path / URL_FILE
    file.write_text("postgresql://fedhe:secret@db.example.org/state?sslmode=verify-full\n")
    file.chmod(0o644)
    with pytest.raises(TrustError, match=r"database\.url: expected mode 0600 or stricter, got 0644"):
        database_url(tmp_path, {})
    file.chmod(0o600)
    url = database_url(tmp_path, {})
    assert (url.get_backend_name(), url.host, url.database, dict(url.query)) == (
        "postgresql", "db.example.org", "state", {"sslmode": "verify-full"},
    )  # fmt: skip
    assert database_url(tmp_path, {URL_VARIABLE: "postgres://other@host/name"}).host == "host"


@pytest.mark.parametrize(
    "text",
    ["mysql://u:secret@host/name", "secret", "postgresql://u:secret@host", "postgresql://u:secret@h/n\nx", "p" * 5000],
)
def test_what_is_no_url_of_postgresql_is_refused_without_telling_the_password(tmp_path, text):
    with pytest.raises(ConfigError, match="FEDHE_DATABASE_URL: expected one line such as postgresql://") as refused:
        database_url(tmp_path, {URL_VARIABLE: text})
    assert "secret" not in str(refused.value)


# ---- what goes wrong is told in a line ----


def test_each_way_not_to_reach_it_is_one_line(postgresql, tmp_path):
    reasons = {
        postgresql.url("postgres", port=1): "Connection refused",
        postgresql.url("postgres", password="wrong"): "password authentication failed",
        postgresql.url("nothing"): 'database "nothing" does not exist',
    }
    for text, reason in reasons.items():
        with pytest.raises(ResourceError, match=reason) as refused:
            open_store(database_url(tmp_path, {URL_VARIABLE: text}))
        assert "\n" not in refused.value.message
        assert "check that PostgreSQL runs" in refused.value.hint


def test_a_user_who_may_not_make_tables_is_told(postgresql, url, tmp_path):
    with psycopg.connect(postgresql.url(url.database), autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = url.set(username="guest", password="guest", drivername="postgresql").render_as_string(hide_password=False)
    with pytest.raises(ResourceError, match="does not permit it: permission denied for schema public") as refused:
        open_store(database_url(tmp_path, {URL_VARIABLE: guest}))
    assert "owner" in refused.value.hint


# ---- alone ----


def test_two_servers_do_not_share_a_database(url, opened):
    first = opened(url)
    with pytest.raises(StateError, match="another fedhe-server uses this PostgreSQL database"):
        open_store(url)
    first.close()
    opened(url)


def test_a_database_that_was_away_is_taken_up_again(url, opened, postgresql):
    store = opened(url)
    postgresql.stop()
    try:
        for _ in range(2):
            with pytest.raises(ResourceError), store.write() as connection:
                records.set_setting(connection, "a", "1")
    finally:
        postgresql.start()
    with store.write() as connection:
        records.set_setting(connection, "a", "2")
    with store.read() as connection:
        assert records.setting(connection, "a") == "2"


def test_a_server_does_not_write_over_what_another_one_wrote_while_it_was_cut_off(url, opened, postgresql):
    cut_off = opened(url)
    postgresql.stop()
    postgresql.start()
    with opened(url).write() as connection:
        records.set_setting(connection, "a", "newer")

    def write():
        with cut_off.write() as connection:
            records.set_setting(connection, "a", "older")

    with pytest.raises(ResourceError):  # the connection that broke
        write()
    with pytest.raises(StateError, match="another fedhe-server uses"):
        write()
    opened.__closure__[0].cell_contents[1].close()
    with pytest.raises(StateError, match="has used this PostgreSQL database while this one could not reach it"):
        write()
    with cut_off.read() as connection:
        assert records.setting(connection, "a") == "newer"


# ---- tied to the folder ----


def test_a_folder_and_its_database_are_tied_together(postgresql, tmp_path, opened):
    urls = [database_url(tmp_path, {URL_VARIABLE: postgresql.create()}) for _ in range(3)]
    mine, other, empty = map(opened, urls)
    folder, foreign, new = (tmp_path / name for name in ("mine", "foreign", "new"))
    for one in (folder, foreign, new):
        one.mkdir(mode=0o700)
    bind_to_folder(mine, folder)
    bind_to_folder(mine, folder)
    bind_to_folder(other, foreign)
    with pytest.raises(StateError, match="belongs to another server's folder"):
        bind_to_folder(other, folder)
    with pytest.raises(StateError, match="belongs to another server's folder"):
        bind_to_folder(mine, new)
    with pytest.raises(StateError, match=r"is empty, but the server in .* has used one before"):
        bind_to_folder(empty, folder)
    (new / "server.db").touch()
    with pytest.raises(StateError, match="has kept its jobs in SQLite until now"):
        bind_to_folder(empty, new)


# ---- the whole server ----


class TestServer:
    @pytest.fixture
    def other_home(self, provisioned, tmp_path):
        return provisioned.copy(tmp_path / "other").home

    @pytest.fixture
    def server(self, idle_server, other_home, postgresql):
        del other_home  # copied before there is a socket in it
        file = idle_server.folder / URL_FILE
        file.touch(mode=0o600)
        file.write_text(postgresql.create())
        return idle_server.start()

    def test_a_job_goes_on_after_kill_9_and_after_the_database_was_away(self, world, postgresql):
        job = world.submit(rounds=2)
        world.run(job, {"upload"})
        world.server.restart(signal.SIGKILL)
        postgresql.stop()
        postgresql.start()
        # The call that finds the connection broken is refused, and clients repeat it; scripted sites do not.
        with contextlib.suppress(ResourceError):
            enable = admin.SetSiteRequest(name="hospitalA", enabled=True)
            world.lead.call(world.lead.admin.SetSite, enable)
        world.run(job)
        assert world.lead.phase(job) == "finished"
        assert [one.attempts for one in world.lead.rounds(job) if one.round] == [1, 1]
        assert not (world.server.folder / "server.db").exists()
        assert job in world.server.command("status", "--json").stdout

    def test_a_second_server_on_the_database_is_refused_in_a_line(self, server, other_home, fedhe_server, monkeypatch):
        monkeypatch.setenv(URL_VARIABLE, (server.folder / URL_FILE).read_text())
        done = fedhe_server("start", "--home", str(other_home), "--listen", "127.0.0.1:0")
        assert done.returncode == StateError.exit_code
        assert "another fedhe-server uses this PostgreSQL database" in done.stderr
        assert "Traceback" not in done.stderr
