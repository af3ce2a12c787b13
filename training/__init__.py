"""Training: the only optimizer and loop. Base checkpoint -> user LM (or assistant LM)."""
