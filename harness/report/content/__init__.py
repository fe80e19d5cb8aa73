"""The content of a report, independent of its format: the result table, sections about a run, comparisons."""
