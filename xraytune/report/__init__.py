"""The page about a study, `report.html`."""
