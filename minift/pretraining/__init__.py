"""Pre-training from plain text: T5 by span corruption, BERT by masked language modelling, each with
its own tokenizer; and a probe of the language knowledge that an encoder keeps in fine-tuning."""
