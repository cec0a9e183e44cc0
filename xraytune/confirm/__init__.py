"""From a search to an answer: are the finalists better than their controls?

They are compared on patients that the search has not used, and with new seeds.
"""
