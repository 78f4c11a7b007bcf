"""Searches as a resource: how they are asked for, and the ones that run or have ended."""
