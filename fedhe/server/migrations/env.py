"""How Alembic reaches the database: through the connection that the store hands over."""

from alembic import context

from fedhe.server.tables import metadata

connection = context.config.attributes["connection"]
# SQLite cannot alter most of a table in place; batch mode rewrites it.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
context.run_migrations()
