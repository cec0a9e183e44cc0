"""Synthetic images: generators, the sources of extra images, their quality and the gate against copies."""
