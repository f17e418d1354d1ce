"""Alembic's folder: `env` runs the steps in `versions`.  A released step is never edited."""
