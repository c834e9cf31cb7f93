"""The guard outside Glance's process: SQL on the database of a real Glance, and the commands that use it."""
