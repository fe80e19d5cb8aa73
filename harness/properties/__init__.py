"""serving.properties files: checking, comparing, migrating and writing them for each container's keys."""
