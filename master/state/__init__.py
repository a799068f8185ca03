"""What is kept: tables, migrations and repositories. Nothing else speaks to the database."""
