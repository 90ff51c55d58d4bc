"""A tokenizer of letters, for the models that read texts with CLIP's."""

from __future__ import annotations

import json
from pathlib import Path


def save_letters(folder: Path) -> list[str]:
    """Letters as words, in the files that CLIP's checkpoints have; returns them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return words
