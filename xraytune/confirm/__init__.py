"""From a search to an answer: are the finalists better than their controls?

They are compared on other patients and with other seeds.
"""
