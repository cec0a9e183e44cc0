"""From a search to an answer: are the finalists better than their controls, on other patients and with other seeds?"""
