"""Fine-tuning: the loop, a step of it, saving and resuming, losses, sharding over processes."""
