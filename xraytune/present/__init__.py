"""A study as a page: sections and charts."""
