"""A package, so that no other one of that name is found before it: pgx installs its own."""
