"""Names, shapes, types and order of the tensors of a model."""
