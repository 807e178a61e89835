"""What preserves circuits and accuracy under label skew, and why? Every federated method over seeds, in one table."""
