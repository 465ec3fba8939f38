"""Where accounts live: in the memory of this process, in a SQLite file, or in a Redis or Valkey server."""
