"""Dendrite's engine: an LLM whose KV cache is a tree. Start with `Engine.from_pretrained`."""
