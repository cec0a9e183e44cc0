"""One trial, from settings to a value, with what trials share computed once."""
