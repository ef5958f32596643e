"""A model's files: where they come from (`sources`), and what they hold (`checkpoint`)."""
