"""`dendrite-bench report`: from the files under results/ to docs/benchmarks.md and its charts."""
