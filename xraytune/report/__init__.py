"""The page about a study, `report.html`, and the same for a paper."""
