"""Statistical estimators with their intervals."""
