"""serving.properties files: the containers' keys, checking, comparing, migrating and writing them."""
