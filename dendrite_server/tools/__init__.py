"""Tool calls: how models write them, how they are read as they stream, and how they are constrained."""
