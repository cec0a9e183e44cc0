"""One trial: its mix of real images and extra ones, synthetic or repeated, its network, its result."""
