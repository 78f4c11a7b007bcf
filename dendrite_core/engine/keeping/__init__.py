"""Keeping trees beyond the process: what has to be written down, and how it becomes a tree again."""
