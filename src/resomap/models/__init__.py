"""Networks: their names, the sizes they take, their weights and checkpoints."""
