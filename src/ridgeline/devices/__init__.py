"""What accelerators can do, as data: a TOML a device or composition (cost/accelerator.py)."""
