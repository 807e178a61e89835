"""What one client does in a round: gradient steps and pruning."""
