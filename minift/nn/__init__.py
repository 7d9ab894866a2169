"""What every model is made of."""
