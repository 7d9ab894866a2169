"""Pre-training from plain text, by span corruption or masked language modelling, with a tokenizer
of its own; and a probe of the language knowledge that an encoder keeps in fine-tuning."""
