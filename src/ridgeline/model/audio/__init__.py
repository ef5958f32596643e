"""Sound: files read, resampled, and made into what a speech model hears. NumPy only."""
