"""The command line of `dendrite serve`: our options, and what becomes of vLLM's."""
