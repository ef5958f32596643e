"""Sound in, text out: what a speech model's tokens mean, and how a long sound is read."""
