"""Our model server: DJL Serving's contract over any Backend."""
