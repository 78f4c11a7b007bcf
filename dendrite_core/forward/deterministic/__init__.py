"""The deterministic mode: logits depend on the tokens before them and on nothing else, to the bit."""
