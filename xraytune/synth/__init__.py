"""Synthetic images: generators, sources, quality and the gate against copies."""
