"""What a model is: the shape that survives in each layer, its multiply-accumulates, the time of a forward pass."""
