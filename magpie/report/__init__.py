"""What people look at: plans, status, rows, and what is wrong with a model."""
