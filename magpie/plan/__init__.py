"""From a recipe to steps, phases and fingerprints."""
