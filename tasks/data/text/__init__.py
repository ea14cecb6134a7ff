"""Text: corpora, GPT-2's tokenizer, and shards of tokens on disk."""
