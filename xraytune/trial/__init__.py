"""One trial: its mix of real and extra images, its network, its result."""
