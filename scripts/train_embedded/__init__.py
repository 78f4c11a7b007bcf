"""Trains Dendrite's embedded model from nothing: `python -m scripts.train_embedded --out
dendrite_core/embedded`.

Order of reading: game24 (exact rules), prompts (the words), puzzles and talk (training turns), corpus
(token rows), tokenizer, training, evaluation, card.
"""
