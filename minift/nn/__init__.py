"""The building blocks of every model: attention, packing, layers, LoRA, 8-bit layers."""
