"""A T5 and its tokenizer from nothing but text."""
