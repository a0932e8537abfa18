"""What one build goes through: agreed to, begun, driven until enough is kept, finished, and told of."""
