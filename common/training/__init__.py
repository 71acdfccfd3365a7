"""Fine-tuning: the loop, one step, saving and resuming, losses, sharding over processes."""
