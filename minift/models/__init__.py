"""Model families, one file each, and the code that they share: loading, heads, generation."""
