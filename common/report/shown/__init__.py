"""What the report shows of each step, where its own file would be too long."""
