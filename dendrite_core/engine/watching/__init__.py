"""Watching the tree as it changes: what a watcher is told, and how it stays cheap."""
