"""One trial: its mix of real and synthetic images, its network, its result."""
