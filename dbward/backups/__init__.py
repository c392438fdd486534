"""Backups of the server's state: what is in one, and where they are kept."""
