"""The words of a report: titles of axes and metrics, numbers as cells, limits as sentences."""
