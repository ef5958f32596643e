"""The page at `/`: a conversation with the model, and the engine at work. Plain files, no build."""
