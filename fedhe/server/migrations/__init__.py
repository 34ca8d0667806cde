"""Steps from each released database schema to the next, run by Alembic when the server starts."""
