"""Fine-tuning: the loop, saving and resuming, losses, sharding over processes."""
