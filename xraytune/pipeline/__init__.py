"""One trial, from settings to a value; work that trials share is done once."""
