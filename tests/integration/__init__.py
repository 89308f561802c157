"""On real tables, built by the migrations, on SQLite and on PostgreSQL."""
