"""What the steps of the second method stand on: seed tasks, prompts, parsing, the published rules, ROUGE-L, forms."""
